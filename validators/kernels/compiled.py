"""Compiling with numba: once per environment, kept on disk.

Only the functions that Python calls (`entry`) are compiled by themselves; what they call is compiled
into them. All together take about 15 s on a free core; after that they are read from the cache.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger("heliodor.validators")
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def inner(function: F) -> F:
    """A function that compiled functions call."""
    compiled: F = numba.njit(**_OPTIONS)(function)
    return compiled


def entry(signature: str) -> Callable[[F], F]:
    """A function that Python calls: compiled for `signature` when its module is imported.

    It holds no interpreter lock. Where no cache folder can be written (neither beside the module nor the
    user's), it is compiled anew in each process, and a warning says so.
    """

    def compile_now(function: F) -> F:
        # numba looks at the file of the function alone; the name carries the state of all of them.
        function.__qualname__ += f"_{_digest()}"
        try:
            compiled: Any = numba.njit(signature, cache=True, **_OPTIONS)(function)
        except (RuntimeError, OSError) as error:
            _warn_once(str(error))
            compiled = numba.njit(signature, **_OPTIONS)(function)
        result: F = compiled
        return result

    return compile_now


@cache
def _digest() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


@cache
def _warn_once(reason: str) -> None:
    _log.warning(
        "no folder to keep compiled functions in; each process compiles them anew, which takes 10 to "
        "30 s. Set NUMBA_CACHE_DIR to a folder that can be written. (%s)",
        reason,
    )
