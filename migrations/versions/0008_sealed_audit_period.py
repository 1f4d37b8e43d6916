"""Seals the period of the audit log with the chain's key."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE retention_periods ADD COLUMN seal bytea")


def downgrade() -> None:
    op.execute("ALTER TABLE retention_periods DROP COLUMN seal")
