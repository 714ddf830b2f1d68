"""The tables of the ledger. Change them only together with a new revision in `migrations/versions`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

HEAD = "0002"
"""The newest schema revision that this code knows."""

metadata = MetaData()

campaign = Table(
    "campaign",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("science_digest", String(64), nullable=False),
    Column("spec", Text, nullable=False),
    Column("created_at", Float, nullable=False),
)

provenance = Table(
    "provenance",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("record", Text, nullable=False),
)

# A row per proposal, not per crystal: a crystal proposed twice counts twice in every rate, and the
# earliest slot is kept whatever the order in which workers finish. `key` is the content key.
candidate = Table(
    "candidate",
    metadata,
    Column("campaign_id", Integer, ForeignKey("campaign.id"), primary_key=True),
    Column("slot", BigInteger, primary_key=True, autoincrement=False),
    Column("key", String(64), nullable=False),
    Column("formula", String(255), nullable=False),
    Column("n_atoms", Integer, nullable=False),
    Column("crystal", LargeBinary, nullable=False),
    Column("origin", Text, nullable=False),
    Index("candidate_key", "campaign_id", "key"),
)

# Append-only.
outcome = Table(
    "outcome",
    metadata,
    Column("campaign_id", Integer, ForeignKey("campaign.id"), primary_key=True),
    Column("stage", String(16), primary_key=True),
    Column("slot", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("status", String(16), nullable=False),
    Column("reason", String(64)),
    Column("data", Text, nullable=False),
    Column("crystal", LargeBinary),
    Column("at", Float, nullable=False),
    Column("provenance", String(16), nullable=False),
)

# The only table whose rows are updated and deleted.
lease = Table(
    "lease",
    metadata,
    Column("campaign_id", Integer, ForeignKey("campaign.id"), primary_key=True),
    Column("stage", String(16), primary_key=True),
    Column("slot", BigInteger, primary_key=True, autoincrement=False),
    Column("owner", String(255), nullable=False),
    Column("expires_at", Float, nullable=False),
    Index("lease_owner", "owner"),
)

# Append-only: what was spent, decided and told.
journal = Table(
    "journal",
    metadata,
    Column("campaign_id", Integer, ForeignKey("campaign.id"), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("data", Text, nullable=False),
    Column("at", Float, nullable=False),
)
