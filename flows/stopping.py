"""Ctrl-C, SIGTERM and SIGHUP as a wish to stop, that what runs looks at when it suits it."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from uuid import UUID

if TYPE_CHECKING:
    from prefect import State

P = ParamSpec("P")
R = TypeVar("R")

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


def cancellable(flow: Callable[P, State[R]]) -> Callable[P, State[R]]:
    """The body of a flow that ends as cancelled where it was stopped because somebody cancelled its run.

    Stopped otherwise (a worker ends, a node goes down, the walltime is over) it raises
    KeyboardInterrupt: to Prefect a crash, from which the run goes on elsewhere. Prefect tells the two
    apart by a handler of SIGTERM that `stop_on_signals` has replaced, so the server is asked.
    """

    @functools.wraps(flow)
    def call(*args: P.args, **kwargs: P.kwargs) -> State[R]:
        try:
            return flow(*args, **kwargs)
        except KeyboardInterrupt:
            if not _cancelled():
                raise
        from prefect.states import Cancelled

        return Cancelled(message="stopped as asked; nothing that was recorded is lost")

    return call


def _cancelled() -> bool:
    """Whether the server says that this deployment's run is to be cancelled."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.runtime import deployment, flow_run

    if deployment.id is None:
        return False
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(flow_run.id)).state
        return state is not None and (state.is_cancelling() or state.is_cancelled())
    return False


def _handle(_number: int, _frame: object) -> None:
    if _asked.is_set():
        raise KeyboardInterrupt
    _asked.set()
