"""The ledger: the truth about a campaign. What is left to do is derived from it, never stored."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from . import schema as t
from .attempts import candidates_of, failed_since, outcomes_of, standing
from .campaign import Campaign, parse_campaign
from .database import Database
from .errors import InputError
from .leases import Leases
from .records import Candidate, Failure, Outcome, Reason, Stage, Status
from .rows import candidate_row, changed, outcome_row, provenance_row


def _begun(spec: str) -> dict[str, Any]:
    """What decided the results of a campaign when it began."""
    content: dict[str, Any] = json.loads(spec)
    try:
        return parse_campaign(content).science()
    except InputError:  # begun with a version whose files are read no more
        return content


@dataclass(frozen=True)
class Work:
    """One claimed piece of work: the candidate, and what the stage before recorded."""

    slot: int
    candidate: Candidate
    previous: Outcome
    attempt: int = 1


class Ledger:
    """One campaign in a database.

    All methods are safe to call from several threads and processes at once.

    Args:
        database: where the tables are.
        campaign: its name identifies it; it is created at the first use.
        stages: the stages that this campaign has, in order.
        lease_seconds: a worker silent for so long has lost what it claimed.

    Raises:
        InputError: the database holds a campaign of this name whose science differs.
    """

    def __init__(
        self,
        database: Database,
        campaign: Campaign,
        stages: Sequence[Stage] = tuple(Stage),
        lease_seconds: float = 120,
    ) -> None:
        self.database = database
        self.stages = tuple(stages)
        self.campaign_id = self._campaign_id(campaign)
        self.leases = Leases(database, self.campaign_id, lease_seconds)

    # --- writing ---------------------------------------------------------------------------------

    def add(
        self, items: Iterable[tuple[int, Candidate | Failure]], provenance: tuple[str, Mapping[str, Any]]
    ) -> None:
        """Record what the generator gave for each slot. Insert or ignore: the first one stays."""
        candidates, outcomes = [], []
        for slot, item in items:
            if isinstance(item, Candidate):
                candidates.append(candidate_row(self.campaign_id, slot, item))
                outcomes.append(Outcome(slot, Stage.GENERATE, Status.PASSED))
            else:
                source = item.origin.source if item.origin else ""
                outcomes.append(
                    Outcome(
                        slot,
                        Stage.GENERATE,
                        Status.FAILED,
                        item.reason,
                        data={"detail": item.detail, "source": source},
                    )
                )
        self.record(outcomes, provenance, candidates)

    def record(
        self,
        outcomes: Sequence[Outcome],
        provenance: tuple[str, Mapping[str, Any]],
        candidates: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Append outcomes and give back their leases, in one transaction. The first one stays."""
        if not outcomes:
            return
        with self.database.write() as connection:
            now = self.database.now(connection)
            self._insert(connection, t.provenance, [provenance_row(provenance)])
            self._insert(connection, t.candidate, candidates)
            self._insert(
                connection,
                t.outcome,
                [outcome_row(self.campaign_id, o, provenance[0], now) for o in outcomes],
            )
            by_stage: dict[str, list[int]] = {}
            for o in outcomes:
                by_stage.setdefault(o.stage, []).append(o.slot)
            for stage, slots in by_stage.items():
                self.leases.give_back(connection, stage, slots)

    # --- claiming --------------------------------------------------------------------------------

    def claim_generate(self, slots: range, limit: int) -> list[int]:
        """Claim up to `limit` slots that have no crystal yet, before the generator's end."""
        with self.database.write() as connection:
            self.leases.lock(connection)
            rows = connection.execute(
                sa.select(t.outcome.c.slot, t.outcome.c.reason).where(
                    t.outcome.c.campaign_id == self.campaign_id,
                    t.outcome.c.stage == Stage.GENERATE,
                    t.outcome.c.slot.between(slots.start, slots.stop - 1),
                )
            ).all()
            done = {row.slot for row in rows}
            end = min((r.slot for r in rows if r.reason == Reason.EXHAUSTED), default=slots.stop)
            taken = self.leases.taken(connection, Stage.GENERATE, slots)
            free = [s for s in range(slots.start, end) if s not in done and s not in taken]
            return self.leases.take(connection, Stage.GENERATE, free[:limit])

    def claim(
        self,
        stage: Stage,
        slots: range,
        limit: int,
        *,
        ordered: bool = False,
        attempts: int = 1,
        among: Collection[int] | None = None,
        least: int = 1,
    ) -> list[Work]:
        """Claim up to `limit` candidates that passed the stage before and have no outcome here.

        Args:
            stage: what to claim for. slots: the part of the campaign to look at.
            ordered: claim only what no earlier slot can come before any more, and only while nobody
                else holds a claim on this stage: the stage sees the candidates in slot order.
            attempts: failed outcomes count as open until there are so many.
            among: nothing but these slots.
            least: claim nothing where fewer are ready.
        """
        before = self.stages[self.stages.index(stage) - 1]
        with self.database.write() as connection:
            self.leases.lock(connection)
            if ordered:
                free = self._next(connection, stage, slots, limit, attempts)
            else:
                free = self._ready(connection, stage, slots, limit, attempts, among)
            if len(free) < least:
                return []
            claimed = self.leases.take(connection, stage, [slot for slot, _ in free])
            candidates = candidates_of(connection, self.campaign_id, claimed)
            found = outcomes_of(connection, self.campaign_id, before, claimed, standing())
            previous = {o.slot: o for o in found}
        return [Work(slot, candidates[slot], previous[slot], attempt) for slot, attempt in free]

    def _ready(
        self,
        connection: Connection,
        stage: Stage,
        slots: range,
        limit: int,
        attempts: int,
        among: Collection[int] | None,
    ) -> list[tuple[int, int]]:
        """Slots that passed the stage before and are free here, with the attempt that is next."""
        before, here = t.outcome.alias("before"), t.outcome.alias("here")
        same_slot = (here.c.campaign_id == self.campaign_id) & (here.c.slot == before.c.slot)
        same_slot &= here.c.stage == stage
        ended = sa.exists().where(
            same_slot, (here.c.status != Status.FAILED) | (here.c.attempt >= attempts)
        )
        tried = sa.select(sa.func.max(here.c.attempt)).where(same_slot).scalar_subquery()
        taken = sa.exists().where(
            t.lease.c.campaign_id == self.campaign_id,
            t.lease.c.stage == stage,
            t.lease.c.slot == before.c.slot,
            t.lease.c.expires_at > self.database.now(connection),
        )
        query = (
            sa.select(before.c.slot, sa.func.coalesce(tried, 0) + 1)
            .where(
                before.c.campaign_id == self.campaign_id,
                before.c.stage == self.stages[self.stages.index(stage) - 1],
                before.c.slot.between(slots.start, slots.stop - 1),
                before.c.status == Status.PASSED,
                ~ended,
                ~taken,
            )
            .order_by(before.c.slot)
            .limit(limit)
        )
        if among is not None:
            query = query.where(before.c.slot.in_(sorted(among)))
        return [(slot, attempt) for slot, attempt in connection.execute(query)]

    def _next(
        self, connection: Connection, stage: Stage, slots: range, limit: int, attempts: int
    ) -> list[tuple[int, int]]:
        """As `_ready`, up to the first slot that is still on its way; none while anybody is at work."""
        if self.leases.taken(connection, stage, slots):
            return []
        if not self._ready(connection, stage, slots, 1, attempts, None):
            return []  # without a look at all slots
        states = self._states(connection, slots, [*self._before(stage), stage])
        free: list[tuple[int, int]] = []
        for slot in slots:
            state = states.get(slot, {})
            here = state.get(stage)
            if here and (here.status != Status.FAILED or here.attempt >= attempts):
                continue
            waits_for = self._waits_for(state, stage)
            if waits_for == "work":
                break
            if waits_for is None:
                free.append((slot, here.attempt + 1 if here else 1))
                if len(free) == limit:
                    break
        return free

    def unfinished(self, slots: range, last: Stage) -> int:
        """How many of the slots have not come to an end at or before stage `last`."""
        with self.database.read() as connection:
            states = self._states(connection, slots, [*self._before(last), last])
        count = 0
        for slot in slots:
            state = states.get(slot, {})
            if (first := state.get(Stage.GENERATE)) and first.reason == Reason.EXHAUSTED:
                break
            if last not in state and self._waits_for(state, last) != "never":
                count += 1
        return count

    def exhausted_at(self) -> int | None:
        """The slot at which the generator had nothing more to give, if it came to that."""
        query = sa.select(sa.func.min(t.outcome.c.slot)).where(
            t.outcome.c.campaign_id == self.campaign_id,
            t.outcome.c.stage == Stage.GENERATE,
            t.outcome.c.reason == Reason.EXHAUSTED,
        )
        with self.database.read() as connection:
            slot: int | None = connection.scalar(query)
            return slot

    def _before(self, stage: Stage) -> tuple[Stage, ...]:
        return self.stages[: self.stages.index(stage)]

    def _waits_for(self, state: Mapping[str, Row[Any]], stage: Stage) -> str | None:
        """None: ready for `stage`. "work": an earlier stage is still to do. "never": it ended before."""
        for step in self._before(stage):
            if step not in state:
                return "work"
            if state[step].status != Status.PASSED:
                return "never"
        return None

    def _states(
        self, connection: Connection, slots: range, stages: Sequence[Stage]
    ) -> dict[int, dict[str, Row[Any]]]:
        """Last status of each slot at each stage. One scan of the primary key's range per stage."""
        o = t.outcome.c
        rows = connection.execute(
            sa.select(o.slot, o.stage, o.status, o.reason, o.attempt)
            .where(
                o.campaign_id == self.campaign_id,
                o.stage.in_(stages),
                o.slot.between(slots.start, slots.stop - 1),
            )
            .order_by(o.attempt)
        )
        states: dict[int, dict[str, Row[Any]]] = {}
        for row in rows:
            states.setdefault(row.slot, {})[row.stage] = row
        return states

    # --- reading ---------------------------------------------------------------------------------

    def candidates(self, slots: Sequence[int]) -> dict[int, Candidate]:
        """The candidates at these slots."""
        with self.database.read() as connection:
            return candidates_of(connection, self.campaign_id, slots)

    def outcomes(self, stage: Stage, slots: Sequence[int] | range | None = None) -> list[Outcome]:
        """What stands of each slot at a stage, by rising slot: a failure where there is nothing else."""
        with self.database.read() as connection:
            return outcomes_of(connection, self.campaign_id, stage, slots, standing())

    def failed_since(self, stage: Stage, slots: Sequence[int] | range | None = None) -> list[Outcome]:
        """The last attempt of each slot that failed after what stands, by rising slot."""
        with self.database.read() as connection:
            return outcomes_of(connection, self.campaign_id, stage, slots, failed_since())

    def judged(self, stage: Stage, slots: range) -> list[int]:
        """The slots that have an outcome at a stage."""
        query = (
            sa.select(t.outcome.c.slot)
            .where(
                t.outcome.c.campaign_id == self.campaign_id,
                t.outcome.c.stage == stage,
                t.outcome.c.slot.between(slots.start, slots.stop - 1),
            )
            .distinct()
            .order_by(t.outcome.c.slot)
        )
        with self.database.read() as connection:
            return list(connection.scalars(query))

    def counts(self, slots: range | None = None) -> dict[tuple[Stage, Status, Reason | None], int]:
        """How many slots ended at each stage in each way (by what stands, as in `outcomes`).

        Args:
            slots: only these.
        """
        query = (
            sa.select(t.outcome.c.stage, t.outcome.c.status, t.outcome.c.reason, sa.func.count())
            .where(t.outcome.c.campaign_id == self.campaign_id, standing())
            .group_by(t.outcome.c.stage, t.outcome.c.status, t.outcome.c.reason)
        )
        if slots is not None:
            query = query.where(t.outcome.c.slot.between(slots.start, slots.stop - 1))
        with self.database.read() as connection:
            return {
                (Stage(stage), Status(status), Reason(reason) if reason else None): n
                for stage, status, reason, n in connection.execute(query)
            }

    def provenances(self) -> dict[str, dict[str, Any]]:
        """All provenance records that outcomes of this campaign point to, by id."""
        used = sa.select(t.outcome.c.provenance).where(t.outcome.c.campaign_id == self.campaign_id)
        query = sa.select(t.provenance).where(t.provenance.c.id.in_(used.distinct()))
        with self.database.read() as connection:
            return {row.id: json.loads(row.record) for row in connection.execute(query)}

    # --- rows ------------------------------------------------------------------------------------

    def _campaign_id(self, campaign: Campaign) -> int:
        digest = campaign.science_digest()
        with self.database.write() as connection:
            self._insert(
                connection,
                t.campaign,
                [
                    {
                        "name": campaign.name,
                        "science_digest": digest,
                        "spec": campaign.model_dump_json(),
                        "created_at": self.database.now(connection),
                    }
                ],
                conflict=["name"],
            )
            row = connection.execute(
                sa.select(t.campaign).where(t.campaign.c.name == campaign.name)
            ).one()
        if row.science_digest != digest:
            raise InputError(
                f"campaign '{campaign.name}' was begun with other settings:\n  "
                + "\n  ".join(changed(_begun(row.spec), campaign.science())),
                hint="put them back, or give the campaign a new name (or another --out). Budget, review,"
                " select, dft, and the relaxer's and generator's machine limits may change",
            )
        return int(row.id)

    def _insert(
        self,
        connection: Connection,
        table: sa.Table,
        rows: Sequence[Mapping[str, Any]],
        conflict: list[str] | None = None,
    ) -> None:
        """Insert or ignore."""
        if not rows:
            return
        keys = conflict or [column.name for column in table.primary_key]
        statement = self.database.insert(table).on_conflict_do_nothing(index_elements=keys)
        connection.execute(statement, [dict(row) for row in rows])
