"""Stage 4: judge the relaxed crystals: unique, novel, and how far above the hull."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from ..core.crystal import Crystal
from ..core.errors import HeliodorError
from ..core.ledger import Ledger, Work
from ..core.records import Failure, HullPoint, Outcome, Stage, Status, Verdict
from .context import Context, failed
from .relax import relaxed_of
from .screen import conclude, verdict_data


@task(
    name="assess",
    tags=["cpu"],
    retries=2,
    retry_delay_seconds=5,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def assess(context: Context, work: Sequence[Work], slots: range) -> int:
    """Judge the claimed relaxed crystals; returns how many are unique and novel, with an energy."""
    if context.judge is None:
        raise RuntimeError("this campaign has no energies")
    with context.meter.using(context.relaxer if context.campaign.own_energies else None):
        relaxed = [relaxed_of(item.previous, item.candidate.key) for item in work]
        crystals = [r.crystal for r in relaxed]
        novel = context.reference.match(crystals)
        try:
            points = context.judge(relaxed)
        except HeliodorError:
            if context.stop.is_set():
                return 0  # the relaxer of a self-consistent reference was closed under us
            raise
        keep = context.campaign.screen.keep_rejected
        with context.unique_relaxed.batch(work, slots) as uniqueness:
            unique = uniqueness.check(crystals)
            outcomes = [
                _outcome(item, point, verdicts, keep=keep)
                for item, point, verdicts in zip(
                    work, points, zip(unique, novel, strict=True), strict=True
                )
            ]
            record = context.provenance("assess", reference=asdict(context.reference.info))
            context.ledger.record(outcomes, record)
    return sum(o.status == Status.PASSED for o in outcomes)


def _outcome(
    item: Work, point: HullPoint | Failure, verdicts: Sequence[Verdict], *, keep: bool
) -> Outcome:
    data: dict[str, Any] = {verdict.check: verdict_data(verdict) for verdict in verdicts}
    if isinstance(point, Failure):
        outcome = failed(item.slot, Stage.ASSESS, point, item.attempt)
        return replace(outcome, data={**data, **outcome.data})
    hull = asdict(point)
    del hull["key"]
    status, reason = conclude(verdicts, keep=keep)
    return Outcome(item.slot, Stage.ASSESS, status, reason, item.attempt, {**data, "hull": hull})


def assessed_crystals(ledger: Ledger, outcomes: Sequence[Outcome]) -> dict[int, Crystal]:
    """The relaxed crystals of judged candidates."""
    relaxed = ledger.outcomes(Stage.RELAX, [o.slot for o in outcomes])
    return {o.slot: o.crystal for o in relaxed if o.crystal is not None and o.status == Status.PASSED}
