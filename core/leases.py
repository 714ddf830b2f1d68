"""Who works on what: claims that lapse when their owner falls silent."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from . import schema as t
from .database import Database
from .owner import new_owner, same_process, surely_dead
from .records import Stage
from .rows import chunks

_PRESENCE = "run"  # in place of a stage: whoever holds such a lease works on the campaign


class Leases:
    """The leases on one campaign's work.

    Args:
        database: where the table is. campaign_id: the campaign's, there.
        seconds: a worker silent for so long has lost what it claimed.
    """

    def __init__(self, database: Database, campaign_id: int, seconds: float) -> None:
        self.database, self.campaign_id, self.seconds = database, campaign_id, seconds
        self.owner = new_owner()

    def enter(self, *, alone: bool = False) -> set[str]:
        """Be seen at work on the campaign until `release`, or `seconds` after the last `renew`.

        Args:
            alone: only if no other process is.

        Returns:
            The owners who are; see `active_owners`.
        """
        with self.database.write() as connection:
            self.lock(connection)
            others = self._others(connection)
            if not (alone and others):
                self.take(connection, _PRESENCE, [int(self.owner.rsplit("|", 1)[1], 16)])
            return others

    def renew(self) -> None:
        """Extend all leases of this owner; call it more often than `seconds`."""
        with self.database.write() as connection:
            expires = self.database.now(connection) + self.seconds
            connection.execute(
                t.lease.update().where(t.lease.c.owner == self.owner).values(expires_at=expires)
            )

    def release(self) -> None:
        """Give back all leases of this owner."""
        with self.database.write() as connection:
            connection.execute(t.lease.delete().where(t.lease.c.owner == self.owner))

    def release_dead(self) -> int:
        """Give back leases of processes of this machine that are gone; returns how many."""
        with self.database.write() as connection:
            owners = connection.scalars(
                sa.select(t.lease.c.owner).where(t.lease.c.campaign_id == self.campaign_id).distinct()
            ).all()
            dead = [owner for owner in owners if surely_dead(owner)]
            if not dead:
                return 0
            return connection.execute(t.lease.delete().where(t.lease.c.owner.in_(dead))).rowcount

    def counts(self) -> dict[Stage, int]:
        """How many live leases there are, by stage."""
        with self.database.read() as connection:
            now = self.database.now(connection)
            query = (
                sa.select(t.lease.c.stage, sa.func.count())
                .where(
                    t.lease.c.campaign_id == self.campaign_id,
                    t.lease.c.expires_at > now,
                    t.lease.c.stage != _PRESENCE,
                )
                .group_by(t.lease.c.stage)
            )
            return {Stage(stage): n for stage, n in connection.execute(query)}

    def active_owners(self) -> set[str]:
        """Who works on this campaign: owners of live leases, those of this process left out."""
        with self.database.read() as connection:
            return self._others(connection)

    def _others(self, connection: Connection) -> set[str]:
        now = self.database.now(connection)
        owners = connection.scalars(
            sa.select(t.lease.c.owner)
            .where(t.lease.c.campaign_id == self.campaign_id, t.lease.c.expires_at > now)
            .distinct()
        )
        return {o for o in owners if not same_process(o, self.owner) and not surely_dead(o)}

    # --- within a transaction of the ledger ------------------------------------------------------

    def lock(self, connection: Connection) -> None:
        """One claim at a time per campaign. SQLite's write lock does it there."""
        if self.database.is_postgresql:
            connection.execute(
                sa.text("select pg_advisory_xact_lock(:a, :b)"), {"a": 0x48454C, "b": self.campaign_id}
            )

    def taken(self, connection: Connection, stage: Stage, slots: range) -> set[int]:
        """The slots that somebody works on."""
        return set(
            connection.scalars(
                sa.select(t.lease.c.slot).where(
                    t.lease.c.campaign_id == self.campaign_id,
                    t.lease.c.stage == stage,
                    t.lease.c.slot.between(slots.start, slots.stop - 1),
                    t.lease.c.expires_at > self.database.now(connection),
                )
            )
        )

    def take(self, connection: Connection, stage: str, slots: Sequence[int]) -> list[int]:
        """Take leases; returns the slots."""
        if not slots:
            return []
        expires = self.database.now(connection) + self.seconds
        rows = [
            {
                "campaign_id": self.campaign_id,
                "stage": stage,
                "slot": slot,
                "owner": self.owner,
                "expires_at": expires,
            }
            for slot in slots
        ]
        insert = self.database.insert(t.lease)
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=["campaign_id", "stage", "slot"],
                set_={"owner": insert.excluded.owner, "expires_at": insert.excluded.expires_at},
            ),
            rows,
        )
        return list(slots)

    def give_back(self, connection: Connection, stage: str, slots: Sequence[int]) -> None:
        """End leases, whoever holds them."""
        for chunk in chunks(slots):
            connection.execute(
                t.lease.delete().where(
                    t.lease.c.campaign_id == self.campaign_id,
                    t.lease.c.stage == stage,
                    t.lease.c.slot.in_(chunk),
                )
            )
