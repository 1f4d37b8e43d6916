"""Retention: runs and what they did, when accounts closed, and by which order expired rows are found."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column("retention_periods", "days", existing_type=sa.Integer(), nullable=True)
    op.create_table(
        "retention_runs",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("data_types", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("failed", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("run_id"),
    )
    op.create_index("retention_runs_by_start", "retention_runs", ["started_at", "run_id"])
    op.create_table(
        "retention_results",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("data_type", sa.Text(), nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("older_than", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "data_type", "part", "action"),
    )
    op.add_column("users", sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE users SET closed_at = updated_at WHERE account_status = 'closed'")
    op.create_index("users_by_closing", "users", ["closed_at"], postgresql_where=sa.text("closed_at IS NOT NULL"))
    op.create_index(
        "instances_by_end", "instances", ["end_time"], postgresql_where=sa.text("end_time IS NOT NULL")
    )
    op.create_index("messages_by_age", "messages", ["created_at"])


def downgrade() -> None:
    op.drop_index("messages_by_age", "messages")
    op.drop_index("instances_by_end", "instances")
    op.drop_index("users_by_closing", "users")
    op.drop_column("users", "closed_at")
    op.drop_table("retention_results")
    op.drop_table("retention_runs")
    op.execute("DELETE FROM retention_periods WHERE days IS NULL")
    op.alter_column("retention_periods", "days", existing_type=sa.Integer(), nullable=False)
