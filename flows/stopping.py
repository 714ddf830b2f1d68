"""Ctrl-C, SIGTERM and SIGHUP as a wish to stop, that what runs looks at when it suits it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Signals belong to the process, and so does the wish to stop.
_asked = threading.Event()
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """The event that a signal sets while the body runs; a second signal raises KeyboardInterrupt.

    An exception raised by the signal itself can be lost: Python drops what is raised in a finalizer
    or a weak reference's callback. Inside another `stop_on_signals` it is the same event. Outside the
    main thread no signal arrives, and the event is a new one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield threading.Event()
        return
    if signal.getsignal(signal.SIGINT) is _handle:
        yield _asked
        return
    _asked.clear()
    before = [signal.signal(number, _handle) for number in _SIGNALS]
    try:
        yield _asked
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)


def _handle(_number: int, _frame: object) -> None:
    if _asked.is_set():
        raise KeyboardInterrupt
    _asked.set()
