"""Counts by each potential and by all together."""

from __future__ import annotations

from heliodor.core.records import Outcome, Stage, Status
from heliodor.tasks.consensus import consensus_summary
from heliodor.tasks.table import Record


def record(slot: int, a: bool | None, b: bool | None, both: bool | None, novel: bool = True) -> Record:
    screened = {check: {"passed": True} for check in ("validity", "uniqueness")}
    screened["novelty"] = {"passed": novel}
    scores = {
        f"stable_{t}_{name}": verdict
        for t in ("0", "0.1")
        for name, verdict in (("a", a), ("b", b), ("consensus", both))
    }
    return Record(
        slot,
        Outcome(slot, Stage.GENERATE, Status.PASSED),
        screen=Outcome(slot, Stage.SCREEN, Status.PASSED, data=screened),
        review=Outcome(
            slot, Stage.REVIEW, Status.PASSED, data={"scores": {**scores, "stable_0_likelihood": 0.4}}
        ),
    )


def test_each_potential_and_all_of_them_are_counted():
    found = [
        record(0, True, True, True),
        record(1, True, False, False),
        record(2, True, None, None),
        record(3, True, True, True, novel=False),
        Record(4, Outcome(4, Stage.GENERATE, Status.FAILED)),
    ]
    summary = consensus_summary(found)
    assert list(summary) == ["a", "b", "consensus"]
    assert [summary[name]["judged"] for name in summary] == [4, 3, 3]
    assert [summary[name]["stable_0"] for name in summary] == [4, 2, 2]
    assert [summary[name]["sun_0.1"] for name in summary] == [3, 1, 1]
    rate = summary["consensus"]["rates"]["sun_0.1"]
    assert rate["rate"] == 0.2
    assert rate["low"] < 0.2 < rate["high"]


def test_without_second_opinions_there_is_nothing_to_say():
    assert consensus_summary([Record(0, Outcome(0, Stage.GENERATE, Status.PASSED))]) == {}
