"""Asking the Materials Project again: how often, after how long, and when to give up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from .mp_faults import Fault, fault_of, unavailable

log = logging.getLogger("heliodor.validators")

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long to bear with the server; all in seconds.

    Args:
        waits: before the second, third ... attempt; without chance, so that a run can be repeated. The
            server's own Retry-After counts where it is longer.
        connect: for a connection. read: between two pieces of an answer.
        total: for all attempts of one question and the waits between them.
        sleep: waits. clock: tells seconds that never go back.
    """

    waits: tuple[float, ...] = (2, 4, 8, 16, 32, 60)
    connect: float = 10
    read: float = 90
    total: float = 600
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


def patiently(ask: Callable[[], T], what: str, patience: Patience, secret: str) -> T:
    """The answer to a question, asked again after faults that may pass.

    Args:
        ask: asks. what: it asks for, in words. secret: the key, to be blotted out of messages.

    Raises:
        ReferenceUnavailableError: the last fault, in words, without the errors behind it.
    """
    begin = patience.clock()

    def left() -> float:
        return patience.total - (patience.clock() - begin)

    attempts = len(patience.waits) + 1
    for attempt in range(1, attempts + 1):
        answer = _try(ask, left(), secret)
        if not isinstance(answer, Fault):
            return answer
        fault = answer
        wait = max(fault.wait, patience.waits[attempt - 1] if attempt < attempts else 0.0)
        if not fault.passing or attempt == attempts or wait >= left():
            break
        log.warning(
            "the Materials Project %s for %s (%s); asking again in %.0f s (attempt %d of %d)",
            *(fault.reason, what, fault.detail, wait, attempt + 1, attempts),
        )
        patience.sleep(wait)
    tried = f" ({attempt} attempts)" if attempt > 1 else ""
    if fault.passing and fault.wait >= left():
        tried += f", and asks to wait {fault.wait:.0f} s (the limit is {patience.total:.0f} s)"
    raise unavailable(fault, what, tried)


def _try(ask: Callable[[], T], limit: float, secret: str) -> T | Fault:
    """One attempt: the answer or the fault.

    In a thread of its own: parts of the client wait without a limit, and there a thread is left behind.
    """
    answer: list[T | Fault] = []

    def work() -> None:
        try:
            answer.append(ask())
        except Exception as error:
            answer.append(fault_of(error, secret))

    thread = threading.Thread(target=work, name="heliodor-mp", daemon=True)
    thread.start()
    thread.join(max(0.0, limit))
    return answer[0] if answer else fault_of(TimeoutError(f"nothing within {limit:.0f} s"), secret)
