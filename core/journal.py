"""What happened to a campaign beside its outcomes: what was spent, what people decided, how it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from . import schema as t
from .database import Database


class Kind(StrEnum):
    """What an entry is about."""

    SPENT = "spent"  # data: gpu_hours, node_hours, dft_jobs
    DECISION = "decision"  # a person's answer about the DFT of a shortlist
    RUN = "run"  # a run of the campaign began or ended
    NOTICE = "notice"  # something that people were told about, so that they are told once


@dataclass(frozen=True)
class Entry:
    """One entry.

    Args:
        key: what it is about, unique within its kind: the name of a job, the digest of a shortlist.
        at: seconds since the epoch, by the ledger's clock.
    """

    kind: Kind
    key: str
    data: Mapping[str, Any]
    at: float


class Journal:
    """The entries of one campaign: append-only, and the first one of a key stays.

    Args:
        database: the ledger's. campaign_id: as the ledger has it.
    """

    def __init__(self, database: Database, campaign_id: int) -> None:
        self._database = database
        self._campaign_id = campaign_id

    def add(self, kind: Kind, key: str, data: Mapping[str, Any]) -> bool:
        """Append an entry; False, and nothing is changed, where the key is there already."""
        insert = postgresql.insert if self._database.is_postgresql else sqlite.insert
        with self._database.write() as connection:
            done = connection.execute(
                insert(t.journal)
                .values(
                    campaign_id=self._campaign_id,
                    kind=kind,
                    key=key,
                    data=json.dumps(dict(data)),
                    at=self._database.now(connection),
                )
                .on_conflict_do_nothing(index_elements=["campaign_id", "kind", "key"])
            )
            return done.rowcount == 1

    def entries(self, kind: Kind) -> list[Entry]:
        """All entries of a kind, oldest first."""
        query = (
            sa.select(t.journal)
            .where(t.journal.c.campaign_id == self._campaign_id, t.journal.c.kind == kind)
            .order_by(t.journal.c.at, t.journal.c.key)
        )
        with self._database.read() as connection:
            return [
                Entry(Kind(row.kind), row.key, json.loads(row.data), row.at)
                for row in connection.execute(query)
            ]

    def spent(self) -> dict[str, float]:
        """All that was spent, by what."""
        found: dict[str, float] = {}
        for entry in self.entries(Kind.SPENT):
            for what, amount in entry.data.items():
                found[what] = found.get(what, 0.0) + amount
        return found
