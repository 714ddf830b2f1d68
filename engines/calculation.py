"""A calculation in its folder: the Flow of each attempt, its jobs' documents, and what they come to.

Whoever has it run, here or elsewhere, holds the folder while these are changed (`core.lock.working_in`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from ..core.files import write_text
from ..core.levels import Level
from ..core.records import DftResult, Failure, Reason
from .calculation_folder import complete
from .dft_results import crystal_of, read_result, write_result
from .flow_speed import cached_schema_access
from .flow_text import flow_text
from .recipe import Parsed, Recipe, Unfinished
from .recipes import recipe_of

if TYPE_CHECKING:
    from jobflow.core.flow import Flow
    from jobflow.core.store import JobStore

logger = logging.getLogger("heliodor.engines")

STORE = "jobs.sqlite"
_PROGRESS = "progress.json"


class Calculation:
    """What a folder says, and how far it has come: kept in the folder, so that a kill loses one job.

    Args:
        folder: what `FlowEngine.prepare` wrote.

    Raises:
        InputError: the folder holds no calculation, or it was changed.
    """

    def __init__(self, folder: Path) -> None:
        record = complete(folder)
        if record is None:
            raise InputError(
                f"{folder} holds no calculation, or its files were changed",
                hint="prepare it again: it is moved aside and made anew",
            )
        self.folder = folder
        self.record: Mapping[str, Any] = record

    @cached_property
    def recipe(self) -> Recipe:
        """The code and its settings."""
        return recipe_of(self.record["engine"], self.record["options"])

    @cached_property
    def _progress(self) -> dict[str, Any]:
        return _read_progress(self.folder)  # not before the folder is held

    @property
    def ended(self) -> DftResult | Failure | None:
        """What the folder says that it came to."""
        return read_result(self.folder, self.record["input_digest"])

    @property
    def attempt(self) -> int:
        """Number of the attempt that is being made, from 1."""
        return len(self.mends) + 1

    @property
    def mends(self) -> list[str]:
        """What the attempts before asked for."""
        return list(self._progress["mends"])

    @property
    def done(self) -> list[str]:
        """The uuids of the attempt's jobs whose documents are in the folder and make sense."""
        return list(self._progress["done"])

    def flow(self) -> Flow:
        """The attempt's Flow. The same after a kill: its uuids are, and its documents are found."""
        from monty.json import MontyDecoder

        name = "flow.json" if self.attempt == 1 else f"flow-{self.attempt}.json"
        path = self.folder / name
        if not path.is_file():
            crystal, level = crystal_of(self.record["crystal"]), Level.from_dict(self.record["level"])
            with cached_schema_access():
                made, _ = flow_text(self.recipe, crystal, level, self.record["input_digest"], self.mends)
            write_text(path, made["text"], "the Flow")
        flow: Flow = json.loads(path.read_text(encoding="utf-8"), cls=MontyDecoder)
        return flow

    def read(self, uuid: str, store: JobStore) -> Parsed | Unfinished:
        """What a job came to, by its document in the folder's store."""
        found = self.recipe.parse(store.get_output(uuid, which="last", load=True), self.mends)
        if isinstance(found, Parsed) and uuid not in self._progress["done"]:
            self._progress["done"].append(uuid)
            self._save()
        return found

    def spend(self, seconds: float) -> None:
        """Count time in which jobs ran."""
        self._progress["seconds"] += seconds
        self._save()

    def finish(self, parsed: Parsed) -> DftResult:
        """Put the result into the folder."""
        seconds = round(self._progress["seconds"], 3)
        result = made_result(parsed, self.record, self.folder, seconds, self.mends)
        write_result(self.folder, result)
        return result

    def mend(self, ended: Unfinished, attempts: int) -> bool:
        """Begin another attempt, if it can be mended and fewer than `attempts` were made."""
        if ended.mend is None or self.attempt >= attempts:
            return False
        logger.warning("%s: %s; trying again with %s", self.folder, ended.detail, ended.mend)
        self._progress["mends"].append(ended.mend)
        self._progress["done"] = []
        self._save()
        return True

    def failure(self, ended: Unfinished) -> Failure:
        """Of all its attempts."""
        after = f" (after {self.attempt} attempts)" if self.attempt > 1 else ""
        return Failure(self.record["key"], ended.reason, ended.detail + after)

    def _save(self) -> None:
        write_text(self.folder / _PROGRESS, json.dumps(self._progress) + "\n", "the progress")


def flow_result(found: Iterable[Parsed | Unfinished]) -> Parsed | Unfinished:
    """What the jobs of a Flow, one after the other, come to: the first that has no result ends it."""
    last: Parsed | Unfinished = Unfinished(Reason.DFT_FAILED, "the Flow holds no job")
    steps = 0
    for last in found:
        if isinstance(last, Unfinished):
            return last
        steps = max(steps, last.steps)
    return replace(last, steps=steps) if isinstance(last, Parsed) else last


def made_result(
    parsed: Parsed,
    record: Mapping[str, Any],
    folder: Path,
    seconds: float = 0.0,
    mends: Sequence[str] = (),
) -> DftResult:
    """The result of a calculation. `record` is its manifest; see `DftResult` for the others."""
    return DftResult(
        key=record["key"],
        input_digest=record["input_digest"],
        level=Level.from_dict(record["level"]),
        crystal=parsed.crystal,
        energy=parsed.energy,
        max_force=parsed.max_force,
        max_stress=parsed.max_stress,
        converged=parsed.converged,
        steps=parsed.steps,
        magnetization=parsed.magnetization,
        band_gap=parsed.band_gap,
        seconds=seconds,
        attempts=len(mends) + 1,
        mended=tuple(mends),
        entry=parsed.entry,
        path=str(folder),
        forces=parsed.forces,
        stress=parsed.stress,
    )


def jobs_done(folder: Path) -> list[str]:
    """The uuids of the jobs that have finished, of the attempt that is being made or was the last."""
    return list(_read_progress(folder)["done"])


def _read_progress(folder: Path) -> dict[str, Any]:
    """What earlier runs in this folder came to."""
    try:
        found = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
        return {"mends": found["mends"], "done": found["done"], "seconds": found["seconds"]}
    except (OSError, ValueError, KeyError):
        return {"mends": [], "done": [], "seconds": 0.0}


@contextmanager
def job_store(path: Path) -> Iterator[JobStore]:
    """The folder's own job store: one writer, and nothing else to set up."""
    from jobflow.core.store import JobStore

    from .job_store import SqliteStore

    store = JobStore(SqliteStore(path, "jobs"), additional_stores={"data": SqliteStore(path, "data")})
    store.connect()
    try:
        yield store
    finally:
        store.close()  # type: ignore[no-untyped-call]
