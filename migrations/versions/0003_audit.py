"""The audit log, the checkpoints on its hours, and the one way in which its rows may go."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from models.tables.events import Xid8

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

EXPIRE_HOUR = """
CREATE FUNCTION expire_audit_hour(OUT expired_hour timestamptz, OUT expired_rows bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept integer;
    allowed timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(x'6175646974'::bigint);
    SELECT days INTO kept FROM public.retention_periods WHERE data_type = 'audit';
    SELECT least(expires_before, now() - make_interval(days => greatest(coalesce(kept, 730), 30))) INTO allowed
      FROM public.audit_checkpoints ORDER BY hour DESC LIMIT 1;
    SELECT date_trunc('hour', min(occurred_at), 'UTC') INTO expired_hour FROM public.audit_log;
    IF allowed IS NULL OR expired_hour IS NULL OR expired_hour + interval '1 hour' > allowed
       OR NOT EXISTS (SELECT FROM public.audit_checkpoints s WHERE s.hour = expired_hour) THEN
        expired_hour := NULL;
        RETURN;
    END IF;
    DELETE FROM public.audit_log
     WHERE occurred_at >= expired_hour AND occurred_at < expired_hour + interval '1 hour';
    GET DIAGNOSTICS expired_rows = ROW_COUNT;
END $$
"""
"""Deletes the rows of the oldest hour, if it is checkpointed, and may go by the last checkpoint, by the log's retention as it
stands now, and by an age of 30 days, below which nothing ever goes.

The runtime role may not delete from the log, so this runs as the owner. Nothing that a caller gives it
chooses what goes, and an hour goes as a whole: one that has some of its rows has been tampered with.
"""


def upgrade() -> None:
    _audit_log()
    _audit_checkpoints()
    op.execute(EXPIRE_HOUR)
    op.execute("REVOKE ALL ON FUNCTION expire_audit_hour() FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION expire_audit_hour()")
    op.drop_table("audit_checkpoints")
    op.drop_table("audit_log")


def _audit_log() -> None:
    empty = sa.text("'{}'")
    op.create_table(
        "audit_log",
        sa.Column("audit_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        # A row must have its transaction's id before it reads the clock: keep these two in this order.
        sa.Column("xid", Xid8(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
        sa.Column(
            "occurred_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("subjects", postgresql.ARRAY(sa.Text()), server_default=empty, nullable=False),
        sa.Column("fields", postgresql.ARRAY(sa.Text()), server_default=empty, nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), server_default=empty, nullable=False),
        sa.PrimaryKeyConstraint("audit_id"),
    )
    op.create_index("audit_log_in_order", "audit_log", ["occurred_at", "audit_id"])
    for column in ("user_id", "actor", "action"):
        name = f"audit_log_of_{column.removesuffix('_id')}"
        op.create_index(name, "audit_log", [column, "occurred_at", "audit_id"])
    # A batch brings up to 2,000 ids: the shorter the list of unmerged ones, the shorter the wait for a merge.
    op.create_index(
        "audit_log_of_subjects",
        "audit_log",
        ["subjects"],
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": 512},
    )


def _audit_checkpoints() -> None:
    op.create_table(
        "audit_checkpoints",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("expires_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("previous", sa.LargeBinary(), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
        sa.Column("key_check", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("hour"),
    )
