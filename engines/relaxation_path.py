"""The steps of a finished calculation's relaxations, for potentials to learn from.

Their geometries are not at rest, so their forces and stresses teach what a relaxed crystal cannot. They
are computed with the settings of the relaxation, which for VASP has coarser k-points than the static
calculation after it, and at the plane waves of the cell that it began with.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.errors import HeliodorError
from ..core.records import Frame
from .calculation import STORE, job_store, jobs_done
from .calculation_folder import manifest_of
from .recipe import Parsed, StepReader
from .recipes import recipe_of

logger = logging.getLogger("heliodor.engines")


def relaxation_path(folder: Path, input_digest: str) -> list[Frame]:
    """All steps but each relaxation's last, which is where the next job starts.

    Empty where the folder is of other inputs, or holds no documents of its jobs: what ran by hand
    elsewhere has none, and what another machine computed may have stayed there.
    """
    record = manifest_of(folder)
    if record is None or record["input_digest"] != input_digest or not (folder / STORE).is_file():
        return []
    try:
        recipe = recipe_of(record["engine"], record["options"])
        if not isinstance(recipe, StepReader):
            return []
        return [
            frame
            for output, place in _outputs(folder)
            if isinstance(recipe.parse(output), Parsed)
            for frame in recipe.steps(output, place)[:-1]
        ]
    except HeliodorError as error:  # a damaged store, an extra that is not installed
        logger.warning("%s: no steps of its relaxations: %s", folder, error.message)
        return []


def _outputs(folder: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """The documents of the jobs of the attempt that ended well, and where each ran."""
    with job_store(folder / STORE) as store:
        for uuid in jobs_done(folder):
            output = store.get_output(uuid, which="last", load=True)
            name = Path(str(output.get("dir_name", ""))).name
            yield output, next(folder.glob(f"attempt-*/{name}"), folder)
