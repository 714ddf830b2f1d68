"""Memory that a CPU run frees and takes again at once."""

from __future__ import annotations

import contextlib
import ctypes
import sys


def keep_memory() -> None:
    """Ask the C library to keep freed memory: page faults cost more than the arithmetic on a CPU."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
