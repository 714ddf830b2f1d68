"""The first tables: campaign, provenance, candidate, outcome, lease."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "campaign",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("science_digest", sa.String(64), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_table(
        "provenance",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("record", sa.Text, nullable=False),
    )
    op.create_table(
        "candidate",
        sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaign.id"), primary_key=True),
        sa.Column("slot", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("formula", sa.String(255), nullable=False),
        sa.Column("n_atoms", sa.Integer, nullable=False),
        sa.Column("crystal", sa.LargeBinary, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
    )
    op.create_index("candidate_key", "candidate", ["campaign_id", "key"])
    op.create_table(
        "outcome",
        sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaign.id"), primary_key=True),
        sa.Column("stage", sa.String(16), primary_key=True),
        sa.Column("slot", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(64)),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("crystal", sa.LargeBinary),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("provenance", sa.String(16), nullable=False),
    )
    op.create_table(
        "lease",
        sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaign.id"), primary_key=True),
        sa.Column("stage", sa.String(16), primary_key=True),
        sa.Column("slot", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
    )
    op.create_index("lease_owner", "lease", ["owner"])


def downgrade() -> None:
    """Drop everything."""
    for table in ("lease", "outcome", "candidate", "provenance", "campaign"):
        op.drop_table(table)
