"""Stage 2: drop what is invalid, repeated or known, in slot order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from ..core.crystal import Crystal
from ..core.ledger import Ledger, Work
from ..core.records import Outcome, Reason, Stage, Status, Verdict
from .context import Context


@task(name="screen", retries=2, retry_delay_seconds=5, persist_result=False, cache_policy=NO_CACHE)
def screen(context: Context, work: Sequence[Work], slots: range) -> int:
    """Judge the claimed candidates; returns how many passed."""
    crystals = [item.candidate.crystal for item in work]
    validity = context.validity.check(crystals)
    valid = [i for i, verdict in enumerate(validity) if verdict.passed]
    chosen = [crystals[i] for i in valid]
    novel = dict(zip(valid, context.reference.match(chosen), strict=True))
    keep = context.campaign.screen.keep_rejected
    with context.unique.batch(work, slots) as uniqueness:
        unique = dict(zip(valid, uniqueness.check(chosen), strict=True))
        outcomes = [
            _outcome(item, [validity[i], *(v[i] for v in (unique, novel) if i in v)], keep=keep)
            for i, item in enumerate(work)
        ]
        record = context.provenance("screen", reference=asdict(context.reference.info))
        context.ledger.record(outcomes, record)
    return sum(o.status == Status.PASSED for o in outcomes)


def _outcome(item: Work, verdicts: Sequence[Verdict], *, keep: bool) -> Outcome:
    data: dict[str, Any] = {verdict.check: verdict_data(verdict) for verdict in verdicts}
    status, reason = conclude(verdicts, keep=keep)
    return Outcome(item.slot, Stage.SCREEN, status, reason, item.attempt, data)


def conclude(verdicts: Sequence[Verdict], *, keep: bool) -> tuple[Status, Reason | None]:
    """One status from the verdicts in their order.

    `keep` lets duplicates and known crystals pass on (their verdicts stay recorded); what is invalid
    never does. A check that could not be made is a failure, not a rejection.
    """
    for verdict in verdicts:
        if verdict.passed or (keep and verdict.check != "validity"):
            continue
        status = Status.REJECTED if verdict.passed is False else Status.FAILED
        return status, verdict.reason or Reason.CHECK_FAILED
    return Status.PASSED, None


def verdict_data(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain JSON values, without what is empty."""
    fields = asdict(verdict)
    del fields["key"], fields["check"]
    return {name: value for name, value in fields.items() if value not in (None, "") or name == "passed"}


def screened_crystals(ledger: Ledger, outcomes: Sequence[Outcome]) -> dict[int, Crystal]:
    """The valid crystals among judged candidates: those that uniqueness compares with."""
    valid = [o.slot for o in outcomes if o.data.get("validity", {}).get("passed")]
    candidates = ledger.candidates(valid)
    return {slot: candidates[slot].crystal for slot in valid}
