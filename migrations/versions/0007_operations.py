"""Operations: dead letters and their replay, consents that instances rest on, callbacks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables and columns."""
    _instances()
    _dead_letters()
    _callbacks()


def downgrade() -> None:
    """Drop them."""
    op.drop_table("callbacks")
    op.drop_table("dead_letters")
    op.drop_index("instances_unstarted", "instances")
    for column in ("replayed_at", "replaced_runs", "purpose"):
        op.drop_column("instances", column)


def _instances() -> None:
    op.add_column("instances", sa.Column("purpose", sa.Text(), nullable=True))
    op.add_column(
        "instances",
        sa.Column(
            "replaced_runs", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False
        ),
    )
    op.add_column("instances", sa.Column("replayed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "instances_unstarted",
        "instances",
        ["start_time"],
        unique=False,
        postgresql_where=sa.text("run_id IS NULL AND end_time IS NULL"),
    )


def _dead_letters() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("dead_letter_id", sa.Text(), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("failed_step", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("error_type", sa.Text(), nullable=False),
        sa.Column("error", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("dead_letter_id"),
    )
    op.create_index("dead_letters_of_step", "dead_letters", ["instance_id", "failed_step"], unique=True)
    op.create_index("dead_letters_by_status", "dead_letters", ["status", "created_at", "dead_letter_id"])
    op.create_index("dead_letters_by_age", "dead_letters", ["created_at", "dead_letter_id"])


def _callbacks() -> None:
    op.create_table(
        "callbacks",
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("url", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("secret", sa.LargeBinary(), nullable=True, comment="personal: encrypted"),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'waiting'"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_status", sa.SmallInteger(), nullable=True),
        sa.Column("last_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("instance_id"),
    )
