"""Asking again: after what, how long, and when no more; and how faults are told."""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import requests

from heliodor.core.errors import ReferenceUnavailableError
from heliodor.validators.mp_faults import (
    ForeignAnswerError,
    PartialAnswerError,
    StatusError,
    fault_of,
    retry_after,
)
from heliodor.validators.mp_patience import Patience, patiently

KEY = "k" * 31 + "Q"


class Script:
    """Raises or gives what it is told to, one after the other; time passes only by waiting."""

    def __init__(self, *steps):
        self.steps, self.asked, self.waited = list(steps), 0, []

    def __call__(self):
        self.asked += 1
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def patience(self, waits=(1, 2, 4), total=100.0):
        return Patience(waits, 1, 1, total, self.waited.append, lambda: float(sum(self.waited)))


def test_waits_double_and_the_answer_comes(caplog):
    ask = Script(StatusError(503), TimeoutError("slow"), "answer")
    assert patiently(ask, "Mg-O", ask.patience(), KEY) == "answer"
    assert ask.waited == [1, 2]
    assert "is overloaded for Mg-O" in caplog.text
    assert "attempt 3 of 4" in caplog.text


def test_retry_after_counts_where_it_is_longer():
    ask = Script(StatusError(429, wait=9), StatusError(429, wait=0.5), "answer")
    assert patiently(ask, "Mg-O", ask.patience(), KEY) == "answer"
    assert ask.waited == [9, 2]


def test_the_limit_ends_it_before_a_wait_beyond_it():
    ask = Script(*[StatusError(503)] * 9)
    with pytest.raises(ReferenceUnavailableError, match=r"\(2 attempts\)"):
        patiently(ask, "Mg-O", ask.patience(waits=(5, 50), total=30.0), KEY)
    assert ask.waited == [5]


def test_what_never_answers_is_left_at_the_limit():
    end = threading.Event()
    with pytest.raises(ReferenceUnavailableError, match="did not answer in time"):
        patiently(end.wait, "Mg-O", Patience(waits=(), total=0.05), KEY)
    end.set()


def wrapped(inner):
    """As the client does: its own type with the text alone."""
    try:
        try:
            raise inner
        except requests.RequestException as error:
            raise RuntimeError(str(error))  # noqa: B904
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "says", "passing"),
    [
        (StatusError(401), "refused the key", False),
        (StatusError(403), "refused the key", False),
        (RuntimeError("Valid API keys are 32 characters."), "refused the key", False),
        (StatusError(429), "asked too often", True),
        (StatusError(500), "overloaded", True),
        (StatusError(504), "overloaded", True),
        (StatusError(422), "did not understand", False),
        (TimeoutError("read"), "in time", True),
        (wrapped(requests.ReadTimeout("read")), "in time", True),
        (wrapped(requests.ConnectionError("resolve")), "cannot be reached", True),
        (requests.exceptions.ChunkedEncodingError("cut"), "cut off", True),
        (OSError("Generic S3 error: connection reset"), "cannot be reached", True),
        (json.JSONDecodeError("Expecting value", "", 0), "cannot be read", True),
        (PartialAnswerError("3 of 9"), "partial answer", True),
        (ForeignAnswerError("K"), "not asked", False),
        (KeyError("entries"), "could not answer", False),
    ],
)
def test_faults_are_known(error, says, passing):
    fault = fault_of(error, KEY)
    assert says in fault.reason
    assert fault.passing is passing
    assert fault.hint


def test_the_key_is_blotted_out_and_nothing_is_chained(caplog):
    request = requests.Request("GET", "https://x/", headers={"x-api-key": KEY}).prepare()
    error = requests.ConnectionError(f"no way to https://x/?k={KEY}", request=request)
    ask = Script(error, error)
    with caplog.at_level(logging.DEBUG), pytest.raises(ReferenceUnavailableError) as caught:
        patiently(ask, "Mg-O", ask.patience(waits=(1,)), KEY)
    assert "***" in caught.value.message
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert KEY not in f"{caught.value} {caught.value!r} {caplog.text}"


def test_retry_after_in_seconds_or_as_a_date():
    assert retry_after("12") == 12
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 55 < retry_after(soon) <= 60
    assert retry_after("-5") == retry_after("soon") == retry_after(None) == 0
