"""What happened to a campaign beside its outcomes: what was spent, what people decided, how it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

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
    """The entries of one campaign. The first one of a key stays; only `meter` changes what it wrote.

    Args:
        database: the ledger's. campaign_id: as the ledger has it.
    """

    def __init__(self, database: Database, campaign_id: int) -> None:
        self._database = database
        self._campaign_id = campaign_id

    def add(self, kind: Kind, key: str, data: Mapping[str, Any]) -> bool:
        """Append an entry; False, and nothing is changed, where the key is there already."""
        with self._database.write() as connection:
            added = connection.scalar(
                self._database.insert(t.journal)
                .values(
                    campaign_id=self._campaign_id,
                    kind=kind,
                    key=key,
                    data=json.dumps(dict(data)),
                    at=self._database.now(connection),
                )
                .on_conflict_do_nothing(index_elements=["campaign_id", "kind", "key"])
                .returning(t.journal.c.key)
            )
            return added is not None

    def meter(self, key: str, amounts: Mapping[str, float]) -> None:
        """All that one worker has spent so far: replaces what it said before under the same key."""
        with self._database.write() as connection:
            row = self._database.insert(t.journal).values(
                campaign_id=self._campaign_id,
                kind=Kind.SPENT,
                key=key,
                data=json.dumps(dict(amounts)),
                at=self._database.now(connection),
            )
            changed = {"data": row.excluded.data, "at": row.excluded.at}
            keys = ["campaign_id", "kind", "key"]
            connection.execute(row.on_conflict_do_update(index_elements=keys, set_=changed))

    def take(self, key: str, what: str, limit: float | None) -> bool:
        """Spend 1 of something, unless `limit` of it are spent; a key is paid for once.

        Processes that take at once never get more than `limit` between them.
        """
        with self._database.write() as connection:
            if self._database.is_postgresql:  # SQLite's write lock does it there
                connection.execute(sa.text("select pg_advisory_xact_lock(:a, :b)"), self._lock)
            if connection.scalar(self._query(Kind.SPENT, key)) is not None:
                return True
            rows = connection.execute(self._query(Kind.SPENT)).all()
            if limit is not None and _total(rows).get(what, 0.0) + 1 > limit:
                return False
            connection.execute(
                t.journal.insert().values(
                    campaign_id=self._campaign_id,
                    kind=Kind.SPENT,
                    key=key,
                    data=json.dumps({what: 1}),
                    at=self._database.now(connection),
                )
            )
            return True

    def has(self, kind: Kind, key: str) -> bool:
        """Whether there is an entry of the key."""
        with self._database.read() as connection:
            return connection.scalar(self._query(kind, key)) is not None

    def entries(self, kind: Kind) -> list[Entry]:
        """All entries of a kind, oldest first."""
        query = self._query(kind).order_by(t.journal.c.at, t.journal.c.key)
        with self._database.read() as connection:
            return [
                Entry(Kind(row.kind), row.key, json.loads(row.data), row.at)
                for row in connection.execute(query)
            ]

    def spent(self) -> dict[str, float]:
        """All that was spent, by what."""
        with self._database.read() as connection:
            return _total(connection.execute(self._query(Kind.SPENT)).all())

    @property
    def _lock(self) -> dict[str, int]:
        return {"a": 0x4A4F55, "b": self._campaign_id}

    def _query(self, kind: Kind, key: str | None = None) -> sa.Select[Any]:
        query = sa.select(t.journal).where(
            t.journal.c.campaign_id == self._campaign_id, t.journal.c.kind == kind
        )
        return query if key is None else query.where(t.journal.c.key == key)


def _total(rows: Sequence[sa.Row[Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in rows:
        for what, amount in json.loads(row.data).items():
            found[what] = found.get(what, 0.0) + amount
    return found
