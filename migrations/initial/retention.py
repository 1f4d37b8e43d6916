"""Retention periods and runs, and the audit log with its checkpoints."""

from __future__ import annotations

TABLES = ("retention_periods", "retention_runs", "retention_results", "audit_log", "audit_checkpoints")

_EXPIRE_AUDIT_HOUR = """
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
"""Deletes the rows of the oldest hour; returns the hour and their number, or NULLs if no hour may be deleted.

An hour may be deleted if:

- it has a checkpoint,
- the newest checkpoint and the current retention period let it expire,
- it is at least 30 days old.

The function runs as the owner, since the runtime role may not delete from the log. It takes no argument, so a
caller can't choose the rows. It deletes whole hours, so that missing rows in an hour prove tampering.
"""

STATEMENTS = (
    """
    CREATE TABLE retention_periods (
        data_type text PRIMARY KEY,
        days integer,
        changed_at timestamptz NOT NULL DEFAULT now(),
        changed_by text NOT NULL
    )
    """,
    """
    CREATE TABLE retention_runs (
        run_id text PRIMARY KEY,
        requested_by text NOT NULL,
        data_types text[] NOT NULL,
        failed text[],
        started_at timestamptz NOT NULL DEFAULT now(),
        finished_at timestamptz
    )
    """,
    "CREATE INDEX retention_runs_by_start ON retention_runs (started_at, run_id)",
    """
    CREATE TABLE retention_results (
        run_id text,
        data_type text,
        part text,
        action text,
        rows bigint NOT NULL,
        older_than timestamptz NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (run_id, data_type, part, action)
    )
    """,
    # Postgres computes defaults in column order. xid must come before occurred_at: the transaction gets its id
    # before it reads the row's time (activities/audit.py).
    """
    CREATE TABLE audit_log (
        audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        actor text NOT NULL,
        role text NOT NULL,
        action text NOT NULL,
        user_id text,
        subjects text[] NOT NULL DEFAULT '{}',
        fields text[] NOT NULL DEFAULT '{}',
        request_id text,
        outcome text NOT NULL,
        details jsonb NOT NULL DEFAULT '{}'
    )
    """,
    "CREATE INDEX audit_log_in_order ON audit_log (occurred_at, audit_id)",
    "CREATE INDEX audit_log_of_user ON audit_log (user_id, occurred_at, audit_id)",
    "CREATE INDEX audit_log_of_actor ON audit_log (actor, occurred_at, audit_id)",
    "CREATE INDEX audit_log_of_action ON audit_log (action, occurred_at, audit_id)",
    # With Postgres' default pending list. Measured with 500 ids per row: 0.3 ms a row, and 60 ms for the one row
    # in 150 that merges the list. With a limit of 512 kB: 0.5 ms and 17 ms.
    "CREATE INDEX audit_log_of_subjects ON audit_log USING gin (subjects)",
    """
    CREATE TABLE audit_checkpoints (
        hour timestamptz PRIMARY KEY,
        rows bigint NOT NULL,
        digest bytea NOT NULL,
        expires_before timestamptz NOT NULL,
        created_at timestamptz NOT NULL,
        previous bytea NOT NULL,
        head bytea NOT NULL,
        key_check text NOT NULL
    )
    """,
    _EXPIRE_AUDIT_HOUR,
    "REVOKE ALL ON FUNCTION expire_audit_hour() FROM PUBLIC",
)
