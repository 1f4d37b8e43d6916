"""The time at which an instance's trigger happened."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE instances ADD COLUMN triggered_at timestamptz")


def downgrade() -> None:
    op.execute("ALTER TABLE instances DROP COLUMN triggered_at")
