"""The program of a generating or relaxing job on its node: `python -m heliodor.flows.job FOLDER`.

It needs the folder and what is installed: no ledger, no Prefect, no network. Every item's result is on
the disk as it finishes, so that whatever ends the program costs what is being worked on. SIGUSR1 and
SIGTERM end it with exit code 75 when that is done; run again, it goes on from there.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..cluster.job_folder import JobFolder
from ..cluster.plain import conditions_of, crystal_of, plain
from ..cluster.remote import EXHAUSTED, GENERATE, RELAX
from ..core.choices.generators import GeneratorChoice
from ..core.choices.relaxers import RelaxerChoice
from ..core.crystal import Crystal
from ..core.errors import HeliodorError, InputError, StorageError
from ..core.lock import BusyError, working_in
from ..core.protocols import Relaxer
from ..core.records import Failure, Origin, Reason, Relaxed
from .build import build_generator, build_relaxer

log = logging.getLogger("heliodor.flows")

STOPPED = os.EX_TEMPFAIL  # 75: with work left
_PATIENCE = 2.0  # seconds for a folder that is held: somebody may only be looking whether it is
_MOMENT = 1.0  # seconds: workers are told to end at the same time as this program, or a little earlier

Item = Mapping[str, Any]


def work_on(folder: JobFolder, workers: int, gpus: int, stop: threading.Event) -> bool:
    """Do what the folder asks for and is not done yet; whether all of it is done.

    Raises:
        HeliodorError: it cannot be done here at all, or the disk refuses.
    """
    begun = time.monotonic()
    with working_in(folder.path, _PATIENCE):
        work = folder.work
        folder.start()
        folder.mend()
        done = {record["id"] for record in folder.results()[0]}
        left = {id_: item for id_, item in work.items.items() if id_ not in done}
        if left and work.stage == GENERATE:
            _generate(folder, work.shared, sorted(map(int, left)), stop)
        elif left and work.stage == RELAX:
            _relax(folder, work.shared, left, stop, workers, gpus)
        elif left:
            raise InputError(f"{folder.path}: no stage {work.stage!r}")
        whole = {record["id"] for record in folder.results()[0]} >= work.items.keys()
        if whole:
            folder.end(time.monotonic() - begun)
        return whole


# --- generating ----------------------------------------------------------------------------------


def _generate(folder: JobFolder, shared: Item, positions: Sequence[int], stop: threading.Event) -> None:
    generator = build_generator(TypeAdapter(GeneratorChoice).validate_python(shared[GENERATE]))
    _refuse_another(getattr(generator, "provenance", {}), shared["provenance"])
    conditions, seed = conditions_of(shared["conditions"]), shared["seed"]
    for _, group in groupby(enumerate(positions), key=lambda pair: pair[1] - pair[0]):
        run = [position for _, position in group]
        while run and not stop.is_set():
            stream = generator.generate(len(run), seed=seed, conditions=conditions, start=run[0])
            try:
                for item in stream:
                    _write(folder, str(run.pop(0)), plain(item))
                    if stop.is_set():
                        return
            except HeliodorError:
                raise
            except Exception as error:  # a third party's generator: the stream goes on without this one
                log.exception("generator %s failed at %d", generator.name, run[0])
                origin = Origin(generator.name, "", seed, run[0])
                detail = f"{type(error).__name__}: {error}"
                failure = Failure("", Reason.GENERATION, detail, origin)
                _write(folder, str(run.pop(0)), plain(failure))
            else:
                for position in run:
                    _write(folder, str(position), {"type": EXHAUSTED})
                run = []


# --- relaxing ------------------------------------------------------------------------------------


def _relax(
    folder: JobFolder,
    shared: Item,
    left: Mapping[str, Item],
    stop: threading.Event,
    workers: int,
    gpus: int,
) -> None:
    """On a GPU all crystals side by side; on cores one each, so that those at hand can be finished."""
    relaxer = build_relaxer(TypeAdapter(RelaxerChoice).validate_python(shared[RELAX]), workers)
    if relaxer is None:
        raise InputError(f"{folder.path}: no relaxer to relax with")
    _refuse_another(getattr(relaxer, "provenance", {}), shared["provenance"])
    lock = threading.Lock()

    def relax(ids: Sequence[str]) -> None:
        if stop.is_set():
            return
        for id_, result in _results(relaxer, {id_: left[id_] for id_ in ids}):
            if (
                isinstance(result, Failure)
                and result.reason == Reason.WORKER_DIED
                and stop.wait(_MOMENT)
            ):
                return  # told to end, as we are: nobody's failure
            with lock:
                _write(folder, id_, plain(result))
            if gpus and stop.is_set():
                return

    try:
        if folder.alone:
            for id_ in left:
                if not stop.is_set():
                    folder.start(id_)
                    relax([id_])
        else:
            _side_by_side(relax, [list(left)] if gpus else [[id_] for id_ in left], workers)
    finally:
        relaxer.close()


def _side_by_side(
    relax: Callable[[Sequence[str]], None], batches: Sequence[Sequence[str]], workers: int
) -> None:
    """Signals arrive in this thread, which only waits."""
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(relax, batch) for batch in batches]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done() and future.exception() is not None:
                pool.shutdown(wait=False, cancel_futures=True)
                future.result()


def _results(relaxer: Relaxer, items: Mapping[str, Item]) -> Iterator[tuple[str, Relaxed | Failure]]:
    """The result of each, by id; an exception is the failure of those that have none yet."""
    crystals: list[Crystal] = [crystal_of(item["crystal"]) for item in items.values()]
    ceilings = [item["ceiling"] for item in items.values()]
    ids: dict[str, list[str]] = {}
    for id_, crystal in zip(items, crystals, strict=True):
        ids.setdefault(crystal.digest, []).append(id_)
    try:
        if any(ceiling is not None for ceiling in ceilings):
            stream = relaxer.relax(crystals, ceilings)
        else:
            stream = relaxer.relax(crystals)
        for result in stream:
            yield ids[result.key].pop(0), result
    except HeliodorError:
        raise
    except Exception as error:  # a third party's relaxer
        log.exception("relaxer %s failed", relaxer.name)
        for key, waiting in ids.items():
            for id_ in waiting:
                yield id_, Failure(key, Reason.WORKER_DIED, f"{type(error).__name__}: {error}")


# --- what both share -----------------------------------------------------------------------------


def _write(folder: JobFolder, id_: str, record: Mapping[str, Any]) -> None:
    folder.append(id_, {**record, "host": socket.gethostname()})


def _refuse_another(here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """The node must compute with what the campaign says that it computes with."""
    for name, value in there.items():
        if here.get(name) != value:
            raise InputError(
                f"{name} on the node {socket.gethostname()} is {here.get(name)!r},"
                f" but {value!r} where the campaign runs",
                hint="install the same versions on both",
            )


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    stop = threading.Event()
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    yield stop


def main(arguments: Sequence[str] | None = None) -> int:
    """Work on the folder that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m heliodor.flows.job", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--place", type=Path, help="where relative paths begin")
    parser.add_argument("--workers", type=int, default=1, help="worker processes")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of this job")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    os.environ.setdefault("OMP_NUM_THREADS", str(given.workers))  # not as many as the node has cores
    folder = JobFolder(given.folder.resolve())
    with _asked_to_stop() as stop:
        try:
            if given.place is not None and given.place.is_dir():
                os.chdir(given.place)
            whole = work_on(folder, given.workers, given.gpus, stop)
        except BusyError as error:
            sys.stderr.write(f"{error}\n")
            return STOPPED
        except HeliodorError as error:
            sys.stderr.write(f"{error}\n")
            with suppress(StorageError):
                folder.refuse(error)
            return error.exit_code
        return 0 if whole else STOPPED


if __name__ == "__main__":
    sys.exit(main())
