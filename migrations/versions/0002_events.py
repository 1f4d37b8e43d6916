"""Events: the log and its partitions, what the projector makes of it, and what it tells Temporal."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from models.tables.events import Xid8

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = (
    "events",
    "event_ids",
    "event_types",
    "log_generation",
    "log_cursors",
    "poison_events",
    "retention_periods",
    "sessions",
    "transactions",
    "user_activity",
    "feature_usage",
    "purchase_totals",
    "event_waits",
    "temporal_outbox",
)

ENSURE_PARTITION = """
CREATE FUNCTION ensure_events_partition(month date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    starts timestamp := date_trunc('month', month::timestamp);
    partition text := 'events_' || to_char(starts, 'YYYY_MM');
    present regclass;
BEGIN
    IF month NOT BETWEEN DATE '1970-01-01' AND DATE '2199-12-31' THEN
        RAISE EXCEPTION 'no partition for this month' USING ERRCODE = 'datetime_field_overflow';
    END IF;
    PERFORM pg_advisory_xact_lock(x'6576656e7473'::bigint);
    present := to_regclass('public.' || partition);
    IF present IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM pg_inherits
                        WHERE inhrelid = present AND inhparent = 'public.events'::regclass
                          AND NOT inhdetachpending) THEN
            RAISE EXCEPTION 'the partition % is on its way out', partition USING ERRCODE = 'object_in_use';
        END IF;
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE public.%I (LIKE public.events INCLUDING ALL)', partition);
    EXECUTE format(
        'ALTER TABLE public.events ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
        partition, starts::text || '+00', (starts + interval '1 month')::text || '+00');
    RETURN true;
END $$
"""
"""Makes the partition of a month where it is missing, and says whether it did.

The runtime role owns no table, so this runs as the owner. CREATE and ATTACH block no insert, which
CREATE ... PARTITION OF would; the advisory lock lets callers at the same time take turns.
"""


def upgrade() -> None:
    _events()
    _event_ids()
    _event_types()
    _log()
    _poison_events()
    _retention_periods()
    _sessions()
    _transactions()
    _totals()
    _event_waits()
    _temporal_outbox()


def downgrade() -> None:
    op.execute("DROP FUNCTION ensure_events_partition(date)")
    for table in reversed(TABLES):
        op.drop_table(table)
    op.execute("DROP SEQUENCE events_sequence")


def _events() -> None:
    # A transaction's rows are numbered by one session, in order, so that numbers may be taken in groups.
    op.execute("CREATE SEQUENCE events_sequence CACHE 100")
    op.create_table(
        "events",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("xid", Xid8(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
        sa.Column(
            "sequence", sa.BigInteger(), server_default=sa.text("nextval('events_sequence')"), nullable=False
        ),
        sa.Column("historical", sa.Boolean(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="personal: encrypted"),
        sa.Column("dimensions", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        postgresql_partition_by="RANGE (timestamp)",
    )
    # What is encrypted can't be compressed: don't try.
    op.execute("ALTER TABLE events ALTER COLUMN body SET STORAGE EXTERNAL")
    op.create_index("events_in_log_order", "events", ["shard", "generation", "xid", "sequence"], unique=False)
    op.create_index("events_of_user", "events", ["user_id", "timestamp", "event_id"], unique=False)
    op.execute(ENSURE_PARTITION)
    op.execute("REVOKE ALL ON FUNCTION ensure_events_partition(date) FROM PUBLIC")


def _event_ids() -> None:
    op.create_table(
        "event_ids",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.BigInteger(), nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_index("event_ids_by_time", "event_ids", ["timestamp"], unique=False)


def _event_types() -> None:
    op.create_table(
        "event_types",
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("json_schema", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("pii", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("dimensions", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("event_type"),
    )


def _log() -> None:
    op.create_table(
        "log_generation",
        sa.Column("only", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("generation", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("highest_xid", Xid8(), server_default=sa.text("'0'"), nullable=False),
        sa.PrimaryKeyConstraint("only"),
        sa.CheckConstraint('"only"', name="log_generation_is_one_row"),
    )
    op.execute("INSERT INTO log_generation DEFAULT VALUES")
    op.create_table(
        "log_cursors",
        sa.Column("consumer", sa.Text(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("xid", Xid8(), server_default=sa.text("'0'"), nullable=False),
        sa.Column("sequence", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("consumer", "shard"),
    )


def _poison_events() -> None:
    op.create_table(
        "poison_events",
        sa.Column("poison_id", sa.Text(), nullable=False),
        sa.Column("consumer", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("error_type", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("set_aside_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("poison_id"),
    )
    op.create_index("poison_events_by_status", "poison_events", ["status", "set_aside_at"], unique=False)


def _retention_periods() -> None:
    op.create_table(
        "retention_periods",
        sa.Column("data_type", sa.Text(), nullable=False),
        sa.Column("days", sa.Integer(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("data_type"),
    )


def _sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "session_id"),
    )


def _transactions() -> None:
    op.create_table(
        "transactions",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("order_id", sa.Text(), nullable=True),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_index("transactions_of_user", "transactions", ["user_id", "occurred_at", "event_id"], unique=False)


def _totals() -> None:
    op.create_table(
        "user_activity",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("session_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_session_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("total_session_seconds", sa.Float(53), server_default=sa.text("0"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("user_id"),
    )
    op.create_table(
        "feature_usage",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("uses", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "feature"),
    )
    op.create_table(
        "purchase_totals",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("purchases", sa.BigInteger(), nullable=False),
        sa.Column("revenue", sa.Numeric(), nullable=False),
        sa.Column("last_purchase_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("user_id", "currency"),
    )


def _event_waits() -> None:
    op.create_table(
        "event_waits",
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("property_filter", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("registered_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("instance_id", "step"),
    )
    op.create_index("event_waits_of_user", "event_waits", ["user_id"], unique=False)


def _temporal_outbox() -> None:
    op.create_table(
        "temporal_outbox",
        sa.Column("outbox_id", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("event_timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("dead", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("outbox_id"),
    )
    op.create_index("temporal_outbox_due", "temporal_outbox", ["due_at", "outbox_id"], unique=False)
