"""The event log, its partitions and cursors; the projector's tables; the Temporal outbox."""

from __future__ import annotations

TABLES = (
    *("events", "event_ids", "event_types", "log_generation", "log_cursors", "poison_events", "redactions"),
    *("sessions", "transactions", "user_activity", "feature_usage", "purchase_totals", "event_waits"),
    "temporal_outbox",
)

_ENSURE_PARTITION = """
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
            RAISE EXCEPTION 'the partition % is being detached', partition USING ERRCODE = 'object_in_use';
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
"""Creates a month's partition if it is missing; returns whether it was.

The function runs as the owner, since the runtime role owns no table. It doesn't block inserts: CREATE and ATTACH
take weaker locks than CREATE ... PARTITION OF. Concurrent callers queue at the advisory lock.
"""

STATEMENTS = (
    # Each session caches 100 numbers. The order within a transaction holds, since one session numbers its rows.
    "CREATE SEQUENCE events_sequence CACHE 100",
    # EXTERNAL: TOAST doesn't try to compress ciphertext, which doesn't compress.
    """
    CREATE TABLE events (
        event_id text NOT NULL,
        user_id text NOT NULL,
        event_type text NOT NULL,
        timestamp timestamptz NOT NULL,
        session_id text NOT NULL,
        shard smallint NOT NULL,
        generation integer NOT NULL,
        xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        sequence bigint NOT NULL DEFAULT nextval('events_sequence'),
        historical boolean NOT NULL,
        body bytea STORAGE EXTERNAL NOT NULL,
        dimensions jsonb,
        received_at timestamptz NOT NULL DEFAULT statement_timestamp()
    ) PARTITION BY RANGE (timestamp)
    """,
    "CREATE INDEX events_in_log_order ON events (shard, generation, xid, sequence)",
    "CREATE INDEX events_of_user ON events (user_id, timestamp, event_id)",
    _ENSURE_PARTITION,
    "REVOKE ALL ON FUNCTION ensure_events_partition(date) FROM PUBLIC",
    """
    CREATE TABLE event_ids (
        event_id text PRIMARY KEY,
        fingerprint bigint NOT NULL,
        timestamp timestamptz NOT NULL
    )
    """,
    "CREATE INDEX event_ids_by_time ON event_ids (timestamp)",
    """
    CREATE TABLE event_types (
        event_type text PRIMARY KEY,
        description text NOT NULL,
        json_schema jsonb NOT NULL,
        pii text[] NOT NULL,
        dimensions text[] NOT NULL,
        changed_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE log_generation (
        "only" boolean PRIMARY KEY DEFAULT true CONSTRAINT log_generation_is_one_row CHECK ("only"),
        generation integer NOT NULL DEFAULT 1,
        highest_xid xid8 NOT NULL DEFAULT '0'
    )
    """,
    "INSERT INTO log_generation DEFAULT VALUES",
    """
    CREATE TABLE log_cursors (
        consumer text,
        shard smallint,
        generation integer NOT NULL DEFAULT 0,
        xid xid8 NOT NULL DEFAULT '0',
        sequence bigint NOT NULL DEFAULT 0,
        moved_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (consumer, shard)
    )
    """,
    """
    CREATE TABLE poison_events (
        poison_id text PRIMARY KEY,
        consumer text NOT NULL,
        event_id text NOT NULL,
        user_id text NOT NULL,
        timestamp timestamptz NOT NULL,
        tries integer NOT NULL,
        error_type text NOT NULL,
        status text NOT NULL,
        set_aside_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX poison_events_by_status ON poison_events (status, set_aside_at)",
    """
    CREATE TABLE redactions (
        user_id text PRIMARY KEY,
        token uuid NOT NULL DEFAULT gen_random_uuid(),
        requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        after_timestamp timestamptz,
        after_event_id text,
        events_changed bigint NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX redactions_by_due_at ON redactions (due_at)",
    """
    CREATE TABLE sessions (
        user_id text,
        session_id text,
        first_at timestamptz NOT NULL,
        last_at timestamptz NOT NULL,
        PRIMARY KEY (user_id, session_id)
    )
    """,
    """
    CREATE TABLE transactions (
        event_id text PRIMARY KEY,
        user_id text NOT NULL,
        kind text NOT NULL,
        order_id bytea,
        amount numeric NOT NULL,
        currency text NOT NULL,
        occurred_at timestamptz NOT NULL
    )
    """,
    "CREATE INDEX transactions_of_user ON transactions (user_id, occurred_at, event_id)",
    """
    CREATE TABLE user_activity (
        user_id text PRIMARY KEY,
        session_count integer NOT NULL DEFAULT 0,
        last_session_date timestamptz,
        total_session_seconds double precision NOT NULL DEFAULT 0,
        updated_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE feature_usage (
        user_id text,
        feature text,
        uses bigint NOT NULL,
        PRIMARY KEY (user_id, feature)
    )
    """,
    """
    CREATE TABLE purchase_totals (
        user_id text,
        currency text,
        purchases bigint NOT NULL,
        revenue numeric NOT NULL,
        last_purchase_at timestamptz,
        PRIMARY KEY (user_id, currency)
    )
    """,
    """
    CREATE TABLE event_waits (
        instance_id text,
        step text,
        workflow_id text NOT NULL,
        user_id text NOT NULL,
        event_type text NOT NULL,
        since timestamptz NOT NULL,
        not_before timestamptz,
        property_filter bytea,
        registered_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (instance_id, step)
    )
    """,
    "CREATE INDEX event_waits_of_user ON event_waits (user_id)",
    """
    CREATE TABLE temporal_outbox (
        outbox_id bigserial PRIMARY KEY,
        kind text NOT NULL,
        workflow_id text NOT NULL,
        instance_id text NOT NULL,
        step text,
        user_id text NOT NULL,
        event_id text NOT NULL,
        event_type text NOT NULL,
        event_timestamp timestamptz NOT NULL,
        attempts integer NOT NULL DEFAULT 0,
        due_at timestamptz NOT NULL DEFAULT now(),
        dead boolean NOT NULL DEFAULT false
    )
    """,
    # Without dead entries, which every read of due entries would have to skip.
    "CREATE INDEX temporal_outbox_due ON temporal_outbox (due_at, outbox_id) WHERE NOT dead",
)
