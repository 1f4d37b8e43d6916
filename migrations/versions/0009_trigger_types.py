"""The type of the event that started an instance, also of those that are stored."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE instances ADD COLUMN trigger_event_type text")
    op.execute(
        """
        UPDATE instances SET trigger_event_type = events.event_type FROM events
        WHERE events.event_id = instances.trigger_event_id AND events.user_id = instances.user_id
          AND events.timestamp = instances.triggered_at
        """
    )


def downgrade() -> None:
    op.execute("ALTER TABLE instances DROP COLUMN trigger_event_type")
