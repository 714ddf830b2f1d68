"""Run one prepared calculation in this process: `python -m heliodor.engines.calculate FOLDER`.

It needs the folder, the program and nothing else, so that it is the same on a laptop and in a job of a
queue without network. Jobs that finished before a kill are not run again: their documents are in the
folder's job store. Whoever comes while it runs is told so.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from ..core.errors import HeliodorError
from ..core.lock import BusyError, working_in
from ..core.records import DftResult, Failure
from .calculation import STORE, Calculation, flow_result, job_store
from .dft_results import write_failure
from .recipe import Parsed, Unfinished

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

logger = logging.getLogger("heliodor.engines")

_MOMENT = 0.5  # seconds: a batch system tells all processes of a job to end, some a little before us
_GRACE = 10.0  # seconds between asking a program to end and ending it
_PATIENCE = 2.0  # seconds for a folder that is held: somebody may only be looking whether it is


class Stopped(BaseException):
    """A signal asks us to end. Not an `Exception`: no reader of outputs may take it for its own."""


def calculate(folder: Path, attempts: int = 3, stop: Event | None = None) -> DftResult | Failure:
    """Bring a calculation to its end, or tell how it ended before.

    Args:
        folder: what `FlowEngine.prepare` wrote.
        attempts: how often it is run if what went wrong can be mended.
        stop: set when this process is to end; a program that ends then has not failed.

    Raises:
        InputError: the folder holds no calculation, or it was changed.
        BusyError: another process is running it.
        Stopped: `stop` was set before it came to its end.
    """
    calculation = Calculation(folder.resolve())
    with working_in(calculation.folder, _PATIENCE):
        ended = calculation.ended
        return ended if ended is not None else _to_its_end(calculation, attempts, stop or Event())


def _to_its_end(calculation: Calculation, attempts: int, stop: Event) -> DftResult | Failure:
    while True:
        ended = _attempt(calculation)
        if isinstance(ended, Parsed):
            return calculation.finish(ended)
        if stop.wait(_MOMENT):
            raise Stopped
        if not calculation.mend(ended, attempts):
            failure = calculation.failure(ended)
            digest = calculation.record["input_digest"]
            write_failure(calculation.folder, digest, failure, calculation.attempt)
            return failure


def _attempt(calculation: Calculation) -> Parsed | Unfinished:
    """Run the jobs of the Flow that are left, one after the other, until one has no result."""
    place = calculation.folder / f"attempt-{calculation.attempt}"
    place.mkdir(exist_ok=True)
    begun = time.monotonic()
    try:
        with job_store(calculation.folder / STORE) as store:
            jobs = [job for job, _ in calculation.flow().iterflow()]  # type: ignore[no-untyped-call]
            return flow_result(_job(calculation, job, store, place) for job in jobs)
    finally:
        calculation.spend(time.monotonic() - begun)


def _job(calculation: Calculation, job: Any, store: JobStore, place: Path) -> Parsed | Unfinished:
    """What a job came to; it is run unless it was before."""
    if job.uuid not in calculation.done:
        try:
            _run(job, store, place)
        except Exception as error:  # the code or its reader: any type
            logger.debug("%s: %s", place, job.name, exc_info=True)
            return calculation.recipe.explain(_newest(place), error)
    return calculation.read(job.uuid, store)


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


@contextmanager
def _asked_to_stop() -> Iterator[Event]:
    """SIGUSR1 and SIGTERM end what is being done; what it has started is ended, too."""
    import psutil

    stop = Event()

    def asked(_number: int, _frame: object) -> None:
        if not stop.is_set():
            stop.set()
            raise Stopped

    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, asked)
    try:
        yield stop
    finally:
        children = psutil.Process().children(recursive=True)
        for end in (psutil.Process.terminate, psutil.Process.kill):
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    end(child)
            children = psutil.wait_procs(children, timeout=_GRACE)[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the folder that the command line names.

    SIGUSR1 and SIGTERM end it with exit code 75: run again, it goes on with the next job of its Flow.
    """
    parser = argparse.ArgumentParser(prog="python -m heliodor.engines.calculate", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--attempts", type=int, default=3, help="how often, if it can be mended")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # or a program starts as many as the node has cores
    try:
        with _asked_to_stop() as stop:
            ended = calculate(given.folder, given.attempts, stop)
    except Stopped:
        sys.stdout.write("stopped; jobs of the Flow that have ended are not run again\n")
        return os.EX_TEMPFAIL
    except BusyError as error:
        sys.stderr.write(f"{error}\n")
        return os.EX_TEMPFAIL
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
