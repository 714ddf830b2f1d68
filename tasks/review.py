"""Last stage before DFT: what else is known of a judged crystal. It drops and decides nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from ..core.columns import Value
from ..core.ledger import Ledger, Work
from ..core.protocols import Scorer
from ..core.records import HullPoint, Judged, Outcome, Stage, Status
from .context import Context, log
from .relax import relaxed_of


@task(
    name="review",
    tags=["cpu"],
    retries=2,
    retry_delay_seconds=5,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def review(context: Context, work: Sequence[Work]) -> int:
    """Score the claimed crystals; returns how many."""
    rules = context.campaign.review
    computes = context.relaxer if rules.phonons or rules.elastic or rules.potentials else None
    with context.meter.using(computes):
        scores = score(context.scorers, judged(context.ledger, work))
    if context.stop.is_set():  # scorers may have lost their workers: the next run scores these again
        return 0
    outcomes = [
        Outcome(item.slot, Stage.REVIEW, Status.PASSED, None, item.attempt, {"scores": found})
        for item, found in zip(work, scores, strict=True)
    ]
    names = [scorer.name for scorer in context.scorers]
    context.ledger.record(outcomes, context.provenance("review", scorers=names))
    return len(outcomes)


def judged(ledger: Ledger, work: Sequence[Work]) -> list[Judged]:
    """What the stages before recorded of each crystal."""
    slots = [item.slot for item in work]
    relaxed = {o.slot: o for o in _outcomes(ledger, Stage.RELAX, slots)}
    assessed = {o.slot: o for o in _outcomes(ledger, Stage.ASSESS, slots)}
    found = []
    for item in work:
        key, relax, hull = item.candidate.key, relaxed.get(item.slot), assessed.get(item.slot)
        point = hull.data.get("hull") if hull else None
        found.append(
            Judged(
                key,
                item.candidate.crystal,
                relaxed_of(relax, key) if relax and relax.crystal is not None else None,
                hull_point(key, point) if point else None,
            )
        )
    return found


def score(scorers: Sequence[Scorer], batch: Sequence[Judged]) -> list[dict[str, Value]]:
    """All scorers' columns of each crystal; a scorer that breaks leaves its columns empty."""
    found: list[dict[str, Value]] = [{} for _ in batch]
    for scorer in scorers:
        names = [column.name for column in scorer.columns]
        try:
            rows: Sequence[Mapping[str, Value]] = scorer.score(batch)
        except Exception:  # a third party's; one fault must not stop a campaign
            log.exception("scorer %s failed on a batch of %d", scorer.name, len(batch))
            rows = [{}] * len(batch)
        for row, target in zip(rows, found, strict=True):
            target.update({name: _plain(row.get(name)) for name in names})
    return found


def hull_point(key: str, data: Mapping[str, Any]) -> HullPoint:
    """A hull point as the ledger holds it."""
    products = tuple((f, m, float(x)) for f, m, x in data["decomposition"])
    return HullPoint(key=key, **{**data, "decomposition": products})


def _outcomes(ledger: Ledger, stage: Stage, slots: Sequence[int]) -> list[Outcome]:
    return ledger.outcomes(stage, slots) if stage in ledger.stages else []


def _plain(value: Value) -> Value:
    """JSON knows no NaN and no NumPy."""
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None
