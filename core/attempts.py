"""Candidates and outcomes of a campaign, as SQL reads them: which attempt of a slot counts."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from . import schema as t
from .records import Candidate, Outcome, Stage, Status
from .rows import chunks, to_candidate, to_outcome


def standing() -> sa.ColumnElement[bool]:
    """What stands of a slot, in `schema.outcome`: the last attempt that did not fail, else the last."""
    other = t.outcome.alias("other")
    failed, other_failed = (o.c.status == Status.FAILED for o in (t.outcome, other))
    later = other.c.attempt > t.outcome.c.attempt
    return ~_another(other, (failed & ~other_failed) | (later & (failed | ~other_failed)))


def failed_since() -> sa.ColumnElement[bool]:
    """Rows of `schema.outcome` that are a slot's last attempt, which failed after what stands."""
    other = t.outcome.alias("other")
    return ~_another(other, other.c.attempt > t.outcome.c.attempt) & ~standing()


def candidates_of(
    connection: Connection, campaign_id: int, slots: Sequence[int]
) -> dict[int, Candidate]:
    """The candidates at these slots."""
    found: dict[int, Candidate] = {}
    for chunk in chunks(slots):
        query = sa.select(t.candidate).where(
            t.candidate.c.campaign_id == campaign_id, t.candidate.c.slot.in_(chunk)
        )
        for row in connection.execute(query):
            found[row.slot] = to_candidate(row)
    return found


def outcomes_of(
    connection: Connection,
    campaign_id: int,
    stage: Stage,
    slots: Sequence[int] | range | None,
    which: sa.ColumnElement[bool],
) -> list[Outcome]:
    """Outcomes at a stage, by rising slot; of all slots for None.

    Args:
        which: `standing()` or `failed_since()`.
    """
    query = (
        sa.select(t.outcome)
        .where(t.outcome.c.campaign_id == campaign_id, t.outcome.c.stage == stage, which)
        .order_by(t.outcome.c.slot)
    )
    if slots is None:
        return [to_outcome(row) for row in connection.execute(query)]
    if isinstance(slots, range):
        query = query.where(t.outcome.c.slot.between(slots.start, slots.stop - 1))
        return [to_outcome(row) for row in connection.execute(query)]
    return [
        to_outcome(row)
        for chunk in chunks(sorted(slots))
        for row in connection.execute(query.where(t.outcome.c.slot.in_(chunk)))
    ]


def _another(other: sa.FromClause, condition: sa.ColumnElement[bool]) -> sa.Exists:
    """Whether the same slot has another outcome at the stage that meets a condition."""
    return sa.exists().where(
        other.c.campaign_id == t.outcome.c.campaign_id,
        other.c.stage == t.outcome.c.stage,
        other.c.slot == t.outcome.c.slot,
        condition,
    )
