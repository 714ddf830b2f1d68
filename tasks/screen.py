"""Stage 2: drop what is invalid, repeated or known, in slot order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from ..core.crystal import Crystal
from ..core.ledger import Ledger, Work
from ..core.records import Outcome, Reason, Stage, Status, Verdict
from .context import Context
from .spacegroups import as_data


@task(
    name="screen",
    tags=["cpu"],
    retries=2,
    retry_delay_seconds=5,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def screen(context: Context, work: Sequence[Work], slots: range) -> int:
    """Judge the claimed candidates; returns how many passed."""
    with context.meter.using():
        crystals = [item.candidate.crystal for item in work]
        validity = context.validity.check(crystals)
        keep = context.campaign.screen.keep_rejected
        sound = [i for i, verdict in enumerate(validity) if _goes_on(verdict, keep=keep)]
        chosen = [crystals[i] for i in sound]
        novel = dict(zip(sound, context.reference.match(chosen), strict=True))
        with context.unique.batch(work, slots) as uniqueness:
            unique = dict(zip(sound, uniqueness.check(chosen), strict=True))
            verdicts = [
                [validity[i], *(found[i] for found in (unique, novel) if i in found)]
                for i in range(len(work))
            ]
            relaxing = Stage.RELAX in context.ledger.stages
            outcomes = [
                _with_spacegroup(_outcome(item, said, keep=keep), item, relaxing)
                for item, said in zip(work, verdicts, strict=True)
            ]
            record = context.provenance("screen", reference=asdict(context.reference.info))
            context.ledger.record(outcomes, record)
    return sum(o.status == Status.PASSED for o in outcomes)


def _outcome(item: Work, verdicts: Sequence[Verdict], *, keep: bool) -> Outcome:
    data: dict[str, Any] = {verdict.check: verdict_data(verdict) for verdict in verdicts}
    status, reason = conclude(verdicts, keep=keep)
    return Outcome(item.slot, Stage.SCREEN, status, reason, item.attempt, data)


def _with_spacegroup(outcome: Outcome, item: Work, relaxing: bool) -> Outcome:
    """Of a sound crystal that is not to be relaxed, which changes it."""
    if "uniqueness" not in outcome.data or (relaxing and outcome.status == Status.PASSED):
        return outcome
    return replace(outcome, data={**outcome.data, **as_data(item.candidate.crystal)})


def conclude(verdicts: Sequence[Verdict], *, keep: bool) -> tuple[Status, Reason | None]:
    """One status from the verdicts in their order.

    `keep` lets pass on what can be judged further (duplicates, known crystals, charges that do not
    balance); the verdicts stay recorded. A check that could not be made is a failure, not a rejection.
    """
    for verdict in verdicts:
        if _goes_on(verdict, keep=keep):
            continue
        status = Status.REJECTED if verdict.passed is False else Status.FAILED
        return status, verdict.reason or Reason.CHECK_FAILED
    return Status.PASSED, None


def _goes_on(verdict: Verdict, *, keep: bool) -> bool:
    """What is broken (distances, cell, not finite) never does: it would waste or harm what follows."""
    if verdict.passed:
        return True
    return keep and (verdict.check != "validity" or verdict.reason == Reason.CHARGE)


def verdict_data(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain JSON values, without what is empty."""
    fields = asdict(verdict)
    del fields["key"], fields["check"]
    return {name: value for name, value in fields.items() if value not in (None, "") or name == "passed"}


def screened_crystals(ledger: Ledger, outcomes: Sequence[Outcome]) -> dict[int, Crystal]:
    """The crystals among judged candidates that uniqueness compares with."""
    compared = [o.slot for o in outcomes if "uniqueness" in o.data]
    candidates = ledger.candidates(compared)
    return {slot: candidates[slot].crystal for slot in compared}
