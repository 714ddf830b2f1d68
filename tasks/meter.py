"""What a campaign spends on this machine, told to its journal while it is spent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..core.journal import Journal

HOUR = 3600.0  # seconds


class Meter:
    """Node and GPU hours of one process: wall time in which at least one piece of its work ran here.

    Work that overlaps counts once: two batches that share a GPU take one GPU's time. Two processes on
    one node count as two nodes, for neither knows of the other.

    Args:
        key: the process's entry in the journal.
    """

    def __init__(self, journal: Journal, key: str) -> None:
        self._journal, self._key = journal, key
        self._changed = threading.Lock()
        self._working: list[Any] = []  # what each piece of work that runs now computes with
        self._since = time.monotonic()
        self._seconds, self._gpu_seconds, self._told = 0.0, 0.0, 0.0

    @contextmanager
    def using(self, room: Any = None) -> Iterator[None]:
        """While the body runs, this machine works with what `room` holds.

        Args:
            room: a generator, relaxer or engine. Its `gpus` says how many GPUs of this machine it
                computes on (none where it does not say). One that is `remote` works elsewhere, and
                whoever submits its jobs says what they cost.
        """
        if getattr(room, "remote", False):
            yield
            return
        with self._changed:
            self._settle()
            self._working.append(room)
        try:
            yield
        finally:
            with self._changed:
                self._settle()
                self._working.remove(room)

    def beat(self) -> None:
        """Tell the journal; what was spent since the last beat is lost with a process that is killed."""
        with self._changed:
            self._settle()
            if self._seconds <= self._told:
                return
            amounts = {"node_hours": self._seconds / HOUR}
            if self._gpu_seconds:
                amounts["gpu_hours"] = self._gpu_seconds / HOUR
            seconds = self._seconds
        self._journal.meter(self._key, amounts)
        self._told = seconds

    def _settle(self) -> None:
        """Count the time since the last change to what has been running."""
        now = time.monotonic()
        if self._working:
            self._seconds += now - self._since
            gpus = max(int(getattr(room, "gpus", 0)) for room in self._working)
            self._gpu_seconds += (now - self._since) * gpus
        self._since = now
