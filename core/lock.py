"""A folder that one process at a time works in, on whatever node: the lock goes with the process."""

from __future__ import annotations

import errno
import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import HeliodorError

log = logging.getLogger("heliodor.core")

_LOCK = ".running"
_POLL = 0.05  # seconds
_HELD = (errno.EAGAIN, errno.EACCES)


class BusyError(HeliodorError):
    """Another process is working in the folder."""


@contextmanager
def working_in(folder: Path, patience: float = 0) -> Iterator[None]:
    """Hold a folder. On a file system that knows no locks (Lustre mounted without them) nothing is held.

    Args:
        patience: seconds to wait for it: who only looks whether it is held holds it for a moment.

    Raises:
        BusyError: another process holds it.
    """
    deadline = time.monotonic() + patience
    with (folder / _LOCK).open("w") as file:
        while not _lock(file.fileno(), folder):
            if time.monotonic() >= deadline:
                raise BusyError(f"another process is working in {folder}")
            time.sleep(_POLL)
        yield


def is_worked_in(folder: Path) -> bool:
    """Whether a process is at it now."""
    try:
        with working_in(folder):
            return False
    except BusyError:
        return True


def _lock(file: int, folder: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        log.warning("%s cannot be locked (%s): let nobody else work in it", folder, error)
    return True
