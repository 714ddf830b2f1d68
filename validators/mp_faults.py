"""What may go wrong between us and the Materials Project's server, in words and without the key.

The errors of the client are of many types and may carry the request with the key in its headers. So none
of them is passed on or chained: what is kept is a `Fault`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from json import JSONDecodeError
from typing import TYPE_CHECKING

from ..core.errors import ReferenceUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

_AGAIN = "run the same command again"
_OFFLINE = f"{_AGAIN}; the embedded reference works offline"


@dataclass(frozen=True)
class Fault:
    """Why a question was not answered.

    Args:
        reason: goes on from "the Materials Project ...". hint: what to do about it.
        passing: it may be gone when asked again.
        wait: seconds that the server asks to wait.
        detail: the error's own words.
    """

    reason: str
    hint: str
    passing: bool = False
    wait: float = 0.0
    detail: str = ""


class StatusError(Exception):
    """The server answered with an HTTP status that is no success.

    Args:
        status: the number. wait: seconds by its Retry-After. detail: the beginning of its body.
    """

    def __init__(self, status: int, wait: float = 0.0, detail: str = "") -> None:
        super().__init__(f"status {status}: {detail}")
        self.status, self.wait, self.detail = status, wait, detail


class PartialAnswerError(Exception):
    """The answer is not all of what was asked; asked again it may be."""


class ForeignAnswerError(Exception):
    """The answer holds what was not asked for."""


def fault_of(error: BaseException, secret: str) -> Fault:
    """What an error means; `secret` is blotted out of its words."""
    found = next((f for link in _chain(error) if (f := _known(link)) is not None), None)
    if found is None:
        found = Fault("could not answer", _OFFLINE)
    words = found.detail or f"{type(error).__name__}: {error}"
    words = words.replace(secret, "***") if secret else words
    words = re.sub(r"\s+", " ", words).strip()[:300]
    return Fault(found.reason, found.hint, found.passing, found.wait, words)


def unavailable(fault: Fault, what: str, tried: str = "") -> ReferenceUnavailableError:
    """The error for the user. `what` was asked for; `tried`: how long and how often."""
    return ReferenceUnavailableError(
        f"the Materials Project {fault.reason} for {what}{tried}: {fault.detail}", hint=fault.hint
    )


def retry_after(header: str | None) -> float:
    """Seconds that a Retry-After header asks for; 0 where there is none or it cannot be read."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from: the client wraps them."""
    link: BaseException | None = error
    for _ in range(10):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _known(error: BaseException) -> Fault | None:
    import requests

    cut = requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError
    match error:
        case StatusError():
            return _by_status(error)
        case PartialAnswerError():
            return Fault(
                "gave a partial answer",
                f"nothing was written; {_AGAIN}",
                passing=True,
                detail=str(error),
            )
        case ForeignAnswerError():
            return Fault("answered what was not asked", "nothing was written", detail=str(error))
        case TimeoutError() | requests.Timeout():
            return Fault("did not answer in time", _AGAIN, passing=True)
        case JSONDecodeError():
            return Fault("gave an answer that cannot be read", _AGAIN, passing=True)
        case _ if isinstance(error, cut):
            return Fault("gave an answer that was cut off", _AGAIN, passing=True)
        case OSError():  # requests' own errors, and those of the client's S3 path
            hint = "check the network; the embedded reference works offline"
            return Fault("cannot be reached", hint, passing=True)
        case _ if "api key" in str(error).lower():
            return Fault("refused the key", "check MP_API_KEY; keys have 32 characters")
    return None


def _by_status(error: StatusError) -> Fault:
    status, detail = error.status, f"{error.status} {error.detail}"
    if status in (401, 403):
        return Fault("refused the key", "check MP_API_KEY; keys have 32 characters", detail=detail)
    if status == 429:
        hint = "wait some minutes, then run the same command again"
        return Fault("is asked too often", hint, passing=True, wait=error.wait, detail=detail)
    if status >= 500:
        return Fault("is overloaded", f"wait, then {_AGAIN}", True, error.wait, detail)
    return Fault("did not understand the question", "a newer mp-api may help", detail=detail)
