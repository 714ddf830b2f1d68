"""A pool of worker processes that survives its workers.

One thread per worker feeds it from the open calls in turn and replaces it when it has to be killed or
dies by itself. A crystal that a worker held alone is then a failure of that crystal; when a GPU worker
held many, each is tried again by itself, so that only the culprit fails.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence

from ..core.choices.relaxers import MlipChoice
from ..core.errors import HeliodorError
from .desk import Desk, Job, Results
from .messages import Order, Result
from .process import WorkerProcess

log = logging.getLogger("heliodor.engines")


class WorkerPool:
    """Workers of one potential. Processes start when there is work, and end with `close`.

    Args:
        name: see `potentials.load`.
        settings: thresholds and limits.
        workers: processes when on CPUs; on GPUs there is one per GPU.
    """

    def __init__(self, name: str, settings: MlipChoice, workers: int) -> None:
        self._name = name
        self._settings = settings
        self._workers = workers
        self._numbers = itertools.count()
        self.gpus = 0  # that it computes on, as soon as the first worker has said so
        self._closing = threading.Event()
        self._changed = threading.Condition()  # guards what follows
        self._turns: deque[deque[Job]] = deque()  # the open calls' waiting jobs, served in turn
        self._suspects: deque[Job] = deque()
        self._listeners: list[Results] = []
        self._threads: list[threading.Thread] = []

    @property
    def closed(self) -> bool:
        """Whether the pool takes no more work: it was closed, or its workers could not start."""
        return self._closing.is_set()

    def run(self, orders: Sequence[Order]) -> Iterator[Result]:
        """Yields the result of each order as it is there. Closing the iterator drops what is not begun.

        Raises:
            HeliodorError: workers cannot start, or the pool was closed meanwhile.
        """
        results: Results = queue.SimpleQueue()
        waiting = deque(Job(next(self._numbers), order, results) for order in orders)
        self._submit(waiting, results)
        try:
            for _ in range(len(orders)):
                item = results.get()
                if isinstance(item, HeliodorError):
                    raise item
                yield item
        finally:
            with self._changed:
                waiting.clear()
                self._listeners.remove(results)

    def close(self) -> None:
        """End the processes. Calls that are still running raise. May be called again."""
        self._fail(HeliodorError("the relaxer was closed while it was working"))
        for thread in self._threads:
            thread.join(timeout=10)

    def _submit(self, waiting: deque[Job], results: Results) -> None:
        with self._changed:
            self._listeners.append(results)
            if self.closed:
                results.put(HeliodorError("the relaxer was closed before it began"))
            self._turns.append(waiting)
            if not self._threads:
                # Only torch knows whether there is a GPU, so the first worker says how many to start.
                device = self._settings.device
                self._start([device] if device != "cpu" else ["cpu"] * self._workers)
            self._changed.notify_all()

    def _start(self, devices: Sequence[str]) -> None:
        for device in devices:
            thread = threading.Thread(target=self._serve, args=(device,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _fail(self, error: HeliodorError) -> None:
        with self._changed:
            self._closing.set()
            for results in self._listeners:
                results.put(error)
            self._changed.notify_all()

    def _serve(self, device: str) -> None:
        """Thread: keep one worker process at work until the pool closes."""
        desk = Desk(self._settings)
        try:
            while not self.closed:
                job = self._next(desk)
                if job is not None:
                    if not desk.staffed:
                        process = WorkerProcess(self._name, device, self._settings)
                        desk.open(process, self._closing, self._start_others)
                    self._try_again(desk.take(job))
                elif desk.jobs:
                    self._try_again(desk.look())
        except HeliodorError as error:
            self._fail(error)
        except Exception as error:  # whatever it is, the callers must not wait for ever
            log.exception("a worker's thread stopped")
            self._fail(HeliodorError(f"relaxing stopped: {type(error).__name__}: {error}"))
        finally:
            desk.close()

    def _next(self, desk: Desk) -> Job | None:
        """A job for the desk if it has room; waits for one when the desk is empty. None: none now."""
        with self._changed:
            while not self.closed and desk.room:
                if self._suspects and not desk.jobs:
                    return self._suspects.popleft()
                while self._turns:
                    waiting = self._turns.popleft()
                    if waiting:
                        job = waiting.popleft()
                        self._turns.append(waiting)
                        return job
                if desk.jobs:
                    return None
                self._changed.wait()
        return None

    def _try_again(self, suspects: Sequence[Job]) -> None:
        if suspects:
            with self._changed:
                self._suspects.extend(suspects)
                self._changed.notify_all()

    def _start_others(self, gpus: int) -> None:
        """Once the first worker has said how many GPUs there are."""
        with self._changed:
            self.gpus = gpus if self._settings.device != "cpu" else 0
            if self._settings.device != "cpu" and len(self._threads) == 1:
                gpu_names = [f"cuda:{k}" for k in range(1, gpus)]
                self._start(gpu_names if gpus else ["cpu"] * (self._workers - 1))
