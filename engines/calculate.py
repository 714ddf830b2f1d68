"""Run one prepared calculation in this process: `python -m heliodor.engines.calculate FOLDER`.

It needs the folder, the program and nothing else, so that it is the same on a laptop and in a job of a
queue without network. Jobs that finished before a kill are not run again: their documents are in the
folder's job store. Whoever comes while it runs is told so.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import HeliodorError, InputError
from ..core.files import write_text
from ..core.levels import Level
from ..core.lock import working_in
from ..core.records import DftResult, Failure, Reason
from .calculation_folder import complete
from .dft_results import crystal_of, read_result, write_failure, write_result
from .flow_speed import cached_schema_access
from .flow_text import flow_text
from .recipe import Parsed, Unfinished
from .recipes import recipe_of

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

logger = logging.getLogger("heliodor.engines")

STORE = "jobs.sqlite"
_PROGRESS = "progress.json"
_PATIENCE = 2.0  # seconds for a folder that is held: somebody may only be looking whether it is


def calculate(folder: Path, attempts: int = 3) -> DftResult | Failure:
    """Bring a calculation to its end, or tell how it ended before.

    Args:
        folder: what `FlowEngine.prepare` wrote.
        attempts: how often it is run if what went wrong can be mended.

    Raises:
        InputError: the folder holds no calculation, or it was changed.
        BusyError: another process is running it.
    """
    folder = folder.resolve()
    record = complete(folder)
    if record is None:
        raise InputError(
            f"{folder} holds no calculation, or its files were changed",
            hint="prepare it again: it is moved aside and made anew",
        )
    with working_in(folder, _PATIENCE):
        ended = read_result(folder, record["input_digest"])
        return ended if ended is not None else _Run(folder, record).to_its_end(attempts)


class _Run:
    """One calculation being run. Its progress is kept in the folder, so that a kill loses one job."""

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self._folder = folder
        self._record = record
        self._crystal = crystal_of(record["crystal"])
        self._level = Level.from_dict(record["level"])
        self._recipe = recipe_of(record["engine"], record["options"])
        self._progress = _read_progress(folder)

    def to_its_end(self, attempts: int) -> DftResult | Failure:
        while True:
            ended = self._attempt()
            made = len(self._progress["mends"]) + 1
            if isinstance(ended, Parsed):
                result = self._result(ended, made)
                write_result(self._folder, result)
                return result
            if ended.mend is None or made >= attempts:
                failure = Failure(self._crystal.digest, ended.reason, _sentence(ended, made))
                write_failure(self._folder, self._record["input_digest"], failure, made)
                return failure
            logger.warning("%s: %s; trying again with %s", self._folder, ended.detail, ended.mend)
            self._progress["mends"].append(ended.mend)
            self._progress["done"] = []
            self._save()

    def _attempt(self) -> Parsed | Unfinished:
        """Run the jobs of the Flow that are left, one after the other, until one has no result."""
        mends = self._progress["mends"]
        place = self._folder / f"attempt-{len(mends) + 1}"
        place.mkdir(exist_ok=True)
        begun = time.monotonic()
        try:
            return self._jobs(place, mends)
        finally:
            self._progress["seconds"] += time.monotonic() - begun
            self._save()

    def _jobs(self, place: Path, mends: Sequence[str]) -> Parsed | Unfinished:
        parsed: Parsed | Unfinished = Unfinished(Reason.DFT_FAILED, "the Flow holds no job")
        steps = 0
        with job_store(self._folder / STORE) as store:
            for job in self._flow(mends):
                parsed = self._job(job, store, place, mends)
                if isinstance(parsed, Unfinished):
                    return parsed
                parsed = replace(parsed, steps=max(steps, parsed.steps))
                steps = parsed.steps
        return parsed

    def _job(self, job: Any, store: JobStore, place: Path, mends: Sequence[str]) -> Parsed | Unfinished:
        """What a job came to; it is run unless it was before."""
        new = job.uuid not in self._progress["done"]
        if new:
            try:
                _run(job, store, place)
            except Exception as error:  # the code or its reader: any type
                logger.debug("%s: %s", place, job.name, exc_info=True)
                return self._recipe.explain(_newest(place), error)
        output = store.get_output(job.uuid, which="last", load=True)
        parsed = self._recipe.parse(output, mends)
        if new and isinstance(parsed, Parsed):
            self._progress["done"].append(job.uuid)
            self._save()
        return parsed

    def _flow(self, mends: Sequence[str]) -> list[Any]:
        """The jobs of the attempt's Flow, in order. The same after a kill: their documents are found."""
        from monty.json import MontyDecoder

        path = self._folder / ("flow.json" if not mends else f"flow-{len(mends) + 1}.json")
        if not path.is_file():
            with cached_schema_access():
                made, _ = flow_text(
                    self._recipe, self._crystal, self._level, self._record["input_digest"], mends
                )
            write_text(path, made["text"], "the Flow")
        flow = json.loads(path.read_text(encoding="utf-8"), cls=MontyDecoder)
        return [job for job, _ in flow.iterflow()]

    def _result(self, parsed: Parsed, made: int) -> DftResult:
        return DftResult(
            key=self._crystal.digest,
            input_digest=self._record["input_digest"],
            level=self._level,
            crystal=parsed.crystal,
            energy=parsed.energy,
            max_force=parsed.max_force,
            max_stress=parsed.max_stress,
            converged=parsed.converged,
            steps=parsed.steps,
            magnetization=parsed.magnetization,
            band_gap=parsed.band_gap,
            seconds=round(self._progress["seconds"], 3),
            attempts=made,
            mended=tuple(self._progress["mends"]),
            entry=parsed.entry,
            path=str(self._folder),
            forces=parsed.forces,
            stress=parsed.stress,
        )

    def _save(self) -> None:
        write_text(self._folder / _PROGRESS, json.dumps(self._progress) + "\n", "the progress")


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


def _run(job: Any, store: JobStore, place: Path) -> None:
    """Run a job in a folder of its own in `place`."""
    from jobflow.core.flow import Flow
    from jobflow.managers.local import run_locally

    job.hosts = []  # each runs by itself: what it needs of others is in the store
    run_locally(
        Flow([job]),
        log="%(asctime)s %(message)s",
        store=store,
        create_folders=True,
        root_dir=place,
        allow_external_references=True,
        raise_immediately=True,
    )


def _newest(place: Path) -> Path:
    """The folder of the job that ran last."""
    return max((path for path in place.iterdir() if path.is_dir()), key=lambda p: p.stat().st_mtime)


def _sentence(ended: Unfinished, made: int) -> str:
    return ended.detail if made == 1 else f"{ended.detail} (after {made} attempts)"


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the folder that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m heliodor.engines.calculate", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--attempts", type=int, default=3, help="how often, if it can be mended")
    given = parser.parse_args(arguments)
    try:
        ended = calculate(given.folder, given.attempts)
    except HeliodorError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    if isinstance(ended, Failure):
        sys.stdout.write(f"{ended.reason}: {ended.detail}\n")
        return 1
    sys.stdout.write(f"{ended.energy:.6f} eV, {ended.level.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
