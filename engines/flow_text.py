"""Flows as text, for other processes and machines."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..core.crystal import Crystal
from ..core.levels import Level
from .recipe import Recipe


def flow_text(
    recipe: Recipe, crystal: Crystal, level: Level, input_digest: str, mends: Sequence[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """JSON text and uuid of a Flow whose jobs carry the crystal's key, and the names of its jobs."""
    from monty.json import MontyEncoder

    flow = recipe.flow(crystal, level, mends)
    flow.name = f"{crystal.formula} {flow.name}"
    origin = {"key": crystal.digest, "formula": crystal.formula, "input_digest": input_digest}
    flow.update_metadata({"heliodor": origin}, dynamic=False)
    jobs = [job.name for job, _ in flow.iterflow()]  # type: ignore[no-untyped-call]
    return {"text": json.dumps(flow, cls=MontyEncoder), "uuid": flow.uuid}, jobs
