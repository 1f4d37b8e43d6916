"""Lifecycle workflows: why instances end, what triggers open, and what holds messages back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COLUMNS: dict[str, dict[str, sa.Text | sa.DateTime]] = {
    "instances": {
        "reason": sa.Text(),
        "trigger_event_id": sa.Text(),
        "events_since": sa.DateTime(timezone=True),
        "events_from": sa.DateTime(timezone=True),
    },
    "messages": {"purpose": sa.Text(), "reason": sa.Text(), "left_at": sa.DateTime(timezone=True)},
}


def upgrade() -> None:
    for table, columns in COLUMNS.items():
        for name, kind in columns.items():
            op.add_column(table, sa.Column(name, kind, nullable=True))
    op.create_table(
        "trigger_windows",
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("workflow_id", "user_id"),
    )


def downgrade() -> None:
    op.drop_table("trigger_windows")
    for table, columns in COLUMNS.items():
        for name in columns:
            op.drop_column(table, name)
