"""The legal basis of event types and of stored events. All that exist rest on consent."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_DETACHED = text(
    """
    SELECT relname FROM pg_class
     WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND NOT relispartition
       AND relname ~ '^events_[0-9]{4}_[0-9]{2}$'
    """
)
_COLUMN = "basis text NOT NULL DEFAULT 'consent'"


def upgrade() -> None:
    op.execute(f"ALTER TABLE events ADD COLUMN {_COLUMN}")
    _of_detached_partitions(f"ADD COLUMN IF NOT EXISTS {_COLUMN}")
    op.execute(f"ALTER TABLE event_types ADD COLUMN {_COLUMN}, ADD COLUMN basis_reason text")


def downgrade() -> None:
    op.execute("ALTER TABLE event_types DROP COLUMN basis_reason, DROP COLUMN basis")
    op.execute("ALTER TABLE events DROP COLUMN basis")
    _of_detached_partitions("DROP COLUMN IF EXISTS basis")


def _of_detached_partitions(change: str) -> None:
    """Retention may attach a partition again that it has detached, so it needs the same columns."""
    for [name] in op.get_bind().execute(_DETACHED).all():
        op.execute(f"ALTER TABLE {name} {change}")
