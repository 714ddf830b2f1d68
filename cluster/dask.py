"""Jobs on the workers of a running Dask scheduler: for one large allocation, without a queue per job.

A site's workers are brought up by whatever it has, such as `srun dask worker --nthreads 1
--scheduler-file s.json` in an allocation, or dask-jobqueue. A worker with n threads runs n jobs.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError, MissingError, StorageError, missing_extra
from .scheduler import End, Job, JobState, Phase, by_exit_code
from .script import shell_command
from .settings import Resources

if TYPE_CHECKING:
    from distributed import Client, Future

_TIMEOUT = 30  # seconds
_ROUNDS = 4
_QUEUED = {"waiting", "no-worker", "queued", "released", "assigned"}


def run_here(name: str, folder: str, command: Sequence[str]) -> tuple[int, float]:
    """On a worker: run a job to its end; its exit code and seconds."""
    from distributed import get_worker

    running = _running(get_worker())
    start = time.monotonic()
    with (Path(folder) / "job.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    running[name] = process
    try:
        return process.wait(), time.monotonic() - start
    finally:
        del running[name]


def end_here(names: Sequence[str], dask_worker: Any) -> bool:
    """On every worker: end these jobs; whether any was here."""
    found = [process for name in names if (process := _running(dask_worker).get(name))]
    for process in found:
        process.terminate()
    return bool(found)


def _running(worker: Any) -> dict[str, subprocess.Popen[bytes]]:
    found: dict[str, subprocess.Popen[bytes]] = worker.__dict__.setdefault("heliodor_jobs", {})
    return found


def _tasks(dask_scheduler: Any) -> dict[str, str]:
    """On the scheduler: the state of every job; one that its worker has not begun is "assigned"."""
    states = {}
    for key, task in dask_scheduler.tasks.items():
        if str(key).startswith("heliodor-"):
            begun = task.processing_on is not None and task in task.processing_on.executing
            states[str(key)] = "assigned" if task.state == "processing" and not begun else task.state
    return states


class Dask:
    """The workers of a running Dask scheduler. A `Scheduler`; a job's id is its name.

    A job goes on when who submitted it is gone, and on another worker when its worker is; what is in
    flight is found by asking. Once a job has ended, only who submitted it knows its exit code: to others
    it is LOST, and its folder decides.

    Of the resources, `setup`, `container`, `python` and `gpus` count; the latter as Dask's resource GPU,
    so workers are started with `--resources GPU=1`. Walltime, memory and partition are the workers' own.

    Args:
        address: of the scheduler (tcp://host:port), or its scheduler file.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._client: Client | None = None
        self._futures: dict[str, Future[Any]] = {}

    def _connected(self) -> Client:
        try:
            from distributed import Client
        except ImportError as error:
            raise missing_extra("distributed", "dask") from error
        if self._client is not None and self._client.status == "running":
            return self._client
        place: dict[str, Any] = {"address": self._address}
        if "://" not in self._address:
            if not Path(self._address).is_file():
                raise MissingError(
                    f"no Dask scheduler at {self._address!r}", hint="give tcp://host:port or its file"
                )
            place = {"scheduler_file": self._address}
        try:
            self._client = Client(**place, timeout=_TIMEOUT, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise StorageError(f"no Dask scheduler answers at {self._address}: {error}") from error
        self._futures.clear()  # of a connection that was lost
        return self._client

    def close(self) -> None:
        """Leave the scheduler; jobs go on."""
        if self._client is not None:
            self._client.close()

    def check(self, resources: Resources) -> None:
        """Whether there is a worker with as many GPUs."""
        workers = self._ask(lambda client: client.scheduler_info(n_workers=-1))["workers"]
        enough = [w for w in workers.values() if w["resources"].get("GPU", 0) >= resources.gpus]
        if not enough:
            raise InputError(
                f"none of {len(workers)} Dask workers has {resources.gpus} GPUs",
                hint="start workers first, with --resources GPU=1",
            )

    def submit(self, jobs: Sequence[Job], resources: Resources) -> Mapping[str, str]:
        """Hand the commands to the workers."""
        from distributed import fire_and_forget

        needs = {"GPU": resources.gpus} if resources.gpus else None

        def submit(client: Client) -> Mapping[str, str]:
            for job in jobs:
                self._futures.pop(job.name, None)
                future = client.submit(
                    run_here,
                    job.name,
                    str(job.folder),
                    shell_command(job, resources),
                    key=job.name,
                    resources=needs,
                    pure=False,
                )
                fire_and_forget(future)
                self._futures[job.name] = future
            return {job.name: job.name for job in jobs}

        ids: Mapping[str, str] = self._ask(submit)
        return ids

    def find(self, names: Sequence[str]) -> Mapping[str, str]:
        """Ask the scheduler."""
        tasks = self._ask(lambda client: client.run_on_scheduler(_tasks))
        ended = ("memory", "erred")
        return {name: name for name in names if name in tasks and tasks[name] not in ended}

    def states(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        """One question for all."""
        tasks = self._ask(lambda client: client.run_on_scheduler(_tasks)) if ids else {}
        return {name: self._state(name, tasks.get(name)) for name in ids}

    def _state(self, name: str, word: str | None) -> JobState:
        future = self._futures.get(name)
        if future is not None and future.status == "finished":
            code, seconds = self._ask(lambda _client: future.result(timeout=_TIMEOUT))
            text = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            return JobState(Phase.ENDED, by_exit_code(code), text, seconds)
        if future is not None and future.status == "error":
            return JobState(Phase.ENDED, End.NODE_FAILURE, f"{future.exception(timeout=_TIMEOUT)}")
        if future is not None and future.status == "cancelled":
            return JobState(Phase.ENDED, End.CANCELLED, "cancelled")
        if word is None or word in ("memory", "erred"):
            return JobState(Phase.LOST, detail="Dask does not know it any more")
        if word in _QUEUED:
            return JobState(Phase.QUEUED, detail="no worker has the GPUs" if word == "no-worker" else "")
        return JobState(Phase.RUNNING, detail=word)

    def cancel(self, ids: Sequence[str]) -> None:
        """Take jobs from the queue, and end those that run."""
        from distributed import Future

        def cancel(client: Client) -> None:
            futures = [self._futures.get(name) or Future(name, client) for name in ids]
            client.cancel(futures, force=True)
            for _ in range(_ROUNDS):  # one that waited may begin before its worker hears of it
                client.run(end_here, list(ids))
                time.sleep(0.3)

        if ids:
            self._ask(cancel)

    def _ask(self, question: Any) -> Any:
        try:
            return question(self._connected())
        except (OSError, TimeoutError) as error:
            raise StorageError(f"no Dask scheduler answers at {self._address}: {error}") from error
