"""Waits know how old their events may be: only the workflow did, so that a replayed instance was told of events
that it passes over. And the index of letters that are due leaves out the dead ones, over which every look stepped;
cancellations are never dead any more.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, make the index narrower, and let cancellations go on."""
    op.add_column("event_waits", sa.Column("not_before", sa.DateTime(timezone=True), nullable=True))
    op.drop_index("temporal_outbox_due", "temporal_outbox")
    op.create_index(
        "temporal_outbox_due",
        "temporal_outbox",
        ["due_at", "outbox_id"],
        unique=False,
        postgresql_where=sa.text("NOT dead"),
    )
    op.execute("UPDATE temporal_outbox SET dead = false, due_at = now() WHERE dead AND kind = 'cancel'")


def downgrade() -> None:
    """Undo both."""
    op.drop_index("temporal_outbox_due", "temporal_outbox")
    op.create_index("temporal_outbox_due", "temporal_outbox", ["due_at", "outbox_id"], unique=False)
    op.drop_column("event_waits", "not_before")
