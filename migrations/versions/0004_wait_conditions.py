"""A condition of a wait besides the event and its properties."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE event_waits ADD COLUMN condition text")


def downgrade() -> None:
    op.execute("ALTER TABLE event_waits DROP COLUMN condition")
