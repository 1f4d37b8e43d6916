"""Refusals: whose stored events are to be gone through, since they have forbidden an attribute."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the list; on it is who has refused something so far, since nobody has gone through their events."""
    op.create_table(
        "redactions",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("token", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column(
            "asked_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "due_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("after_timestamp", sa.DateTime(timezone=True), nullable=True),
        sa.Column("after_event_id", sa.Text(), nullable=True),
        sa.Column("changed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("user_id"),
    )
    op.create_index("redactions_by_turn", "redactions", ["due_at"], unique=False)
    op.execute(
        """INSERT INTO redactions (user_id)
           SELECT user_id FROM users WHERE jsonb_path_exists(privacy_preferences, '$.* ? (@ == false)')"""
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("redactions")
