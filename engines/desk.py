"""One worker's seat in the pool: the process, the crystals it holds, and the limits on both."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..core.choices.relaxers import MlipChoice
from ..core.errors import HeliodorError, InputError
from ..core.records import Failure, Reason
from .messages import Order, Result, unpack_result
from .process import WorkerLostError, WorkerProcess

log = logging.getLogger("heliodor.engines")

POLL_SECONDS = 0.05  # how often memory and time are looked at while a worker computes
GRACE_SECONDS = 2.0  # a worker minds the time limit itself, between evaluations; then it is killed

Results = queue.SimpleQueue[Result | HeliodorError]


@dataclass(eq=False)
class Job:
    """An order on its way. `alone`: it was with others in a worker that died, and is tried by itself."""

    number: int
    order: Order
    results: Results
    alone: bool = False

    @property
    def key(self) -> str:
        """Content key of the crystal."""
        return self.order.crystal.digest


class Desk:
    """Not shared between threads: each worker's thread has its own."""

    def __init__(self, settings: MlipChoice) -> None:
        self._settings = settings
        self._process: WorkerProcess | None = None
        self._capacity = 1
        self._since = 0.0  # when the worker last gave a sign of life
        self.jobs: dict[int, Job] = {}

    @property
    def room(self) -> bool:
        """Whether the worker can take one more crystal."""
        alone = any(job.alone for job in self.jobs.values())
        return not self.jobs or (not alone and len(self.jobs) < self._capacity)

    @property
    def staffed(self) -> bool:
        """Whether the process is there; one that died while idle is cleared away."""
        if self._process is not None and not self.jobs and not self._process.alive():
            self.close()
        return self._process is not None

    def open(
        self, process: WorkerProcess, cancelled: threading.Event, on_hello: Callable[[int], None]
    ) -> None:
        """Wait until a new process has loaded the potential; `on_hello` is told the number of GPUs.

        Raises:
            HeliodorError: it does not start, it has no GPU where one was asked for, or it needs more
                memory than it may have.
        """
        self._process = process
        gpus = int(process.greeting("hello", cancelled)["gpus"])
        if self._settings.device == "cuda" and gpus == 0:
            raise InputError("device: got 'cuda', but torch sees no GPU here", hint="use auto or cpu")
        on_hello(gpus)
        self._capacity = int(process.greeting("ready", cancelled)["capacity"])
        limit, memory = self._settings.memory_limit_gb, process.memory_gb()
        if memory > limit:
            raise InputError(
                f"memory_limit_gb: got {limit:g}, but the potential alone takes {memory:.2f} GB",
                hint="give at least twice as much",
            )

    def take(self, job: Job) -> list[Job]:
        """Hand a crystal to the process; returns the jobs to try again by themselves."""
        if not self.jobs:
            self._since = time.monotonic()
        self.jobs[job.number] = job
        assert self._process is not None
        try:
            self._process.send(job.number, job.order)
        except WorkerLostError as lost:
            return self._lose(Reason.WORKER_DIED, str(lost))
        return []

    def look(self) -> list[Job]:
        """Pass on what finished, enforce the limits; returns the jobs to try again by themselves."""
        assert self._process is not None
        try:
            message = self._process.receive(POLL_SECONDS)
        except WorkerLostError as lost:
            return self._lose(Reason.WORKER_DIED, str(lost))
        if message is not None:
            self._since = time.monotonic()
            header, body = message
            self._capacity = header.get("capacity", self._capacity)
            if "number" in header:
                job = self.jobs.pop(header["number"])
                job.results.put(unpack_result(job.key, header, body))
        memory, limits = self._process.memory_gb(), self._settings
        if memory > limits.memory_limit_gb:
            return self._lose(
                Reason.MEMORY_LIMIT, f"{memory:.2f} GB, memory_limit_gb is {limits.memory_limit_gb:g}"
            )
        if self.jobs and time.monotonic() - self._since > limits.time_limit + GRACE_SECONDS:
            return self._lose(Reason.TIME_LIMIT, f"killed, time_limit is {limits.time_limit:g} s")
        return []

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _lose(self, reason: Reason, detail: str) -> list[Job]:
        """End the process. One crystal at hand is to blame; of several, each is tried alone."""
        log.warning("a worker is replaced (%s, %d crystals at hand): %s", reason, len(self.jobs), detail)
        self.close()
        jobs = list(self.jobs.values())
        self.jobs.clear()
        if len(jobs) == 1:
            jobs[0].results.put(Failure(jobs[0].key, reason, detail))
            return []
        for job in jobs:
            job.alone = True
        return jobs
