"""Times that tell the order of consents and events: taken after the locks, not when the transaction began.

A withdrawal's is later than that of every event that was still taken before it, a grant's earlier than that of the
first event that rests on it, and a person's statements are in the order of their times.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_TIMES = (
    ("consents", "changed_at", "clock_timestamp()"),
    ("consent_history", "recorded_at", "clock_timestamp()"),
    ("events", "received_at", "statement_timestamp()"),
)


def upgrade() -> None:
    """Set the defaults."""
    for table, column, clock in _TIMES:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT {clock}")


def downgrade() -> None:
    """Set them as they were."""
    for table, column, _ in _TIMES:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT now()")
