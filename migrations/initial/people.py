"""Profiles, data keys and consents; API keys, rate limits and idempotent answers."""

from __future__ import annotations

TABLES = ("users", "data_keys", "consents", "consent_history", "api_keys", "rate_windows", "idempotent_answers")

STATEMENTS = (
    """
    CREATE TABLE users (
        user_id text PRIMARY KEY,
        email bytea NOT NULL,
        email_index bytea NOT NULL,
        name bytea NOT NULL,
        signup_date timestamptz NOT NULL,
        account_status text NOT NULL,
        lifecycle_stage text NOT NULL,
        lifecycle_stage_pinned boolean NOT NULL,
        age bytea,
        date_of_birth bytea,
        gender bytea,
        country text,
        city bytea,
        timezone bytea,
        language bytea,
        device_type bytea,
        privacy_preferences jsonb NOT NULL,
        subscription_tier text,
        version bigint NOT NULL DEFAULT 1,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        closed_at timestamptz
    )
    """,
    "CREATE INDEX users_email_index ON users (email_index)",
    "CREATE INDEX users_by_stage ON users (lifecycle_stage, user_id)",
    "CREATE INDEX users_by_status ON users (account_status, user_id)",
    "CREATE INDEX users_by_closed_at ON users (closed_at) WHERE closed_at IS NOT NULL",
    """
    CREATE TABLE data_keys (
        subject text PRIMARY KEY,
        wrapped bytea,
        created_at timestamptz NOT NULL DEFAULT now(),
        destroyed_at timestamptz
    )
    """,
    # clock_timestamp(), not now(): these rows are written after the locks are taken. So a withdrawal is later than
    # every event stored before it. A grant is earlier than the first event that it permits.
    """
    CREATE TABLE consents (
        user_id text,
        purpose text,
        granted boolean NOT NULL,
        changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (user_id, purpose)
    )
    """,
    """
    CREATE TABLE consent_history (
        record_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        user_id text NOT NULL,
        purpose text NOT NULL,
        granted boolean NOT NULL,
        source text NOT NULL,
        policy_version text,
        legal_basis text NOT NULL DEFAULT 'consent',
        actor text NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    "CREATE INDEX consent_history_by_user ON consent_history (user_id, record_id)",
    """
    CREATE TABLE api_keys (
        key_id text PRIMARY KEY,
        name text NOT NULL,
        role text NOT NULL,
        rate_limit integer,
        hash bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        revoked_at timestamptz
    )
    """,
    "CREATE UNIQUE INDEX api_keys_by_hash ON api_keys (hash)",
    # Every request updates its key's row. Half-filled pages have space for HOT updates.
    """
    CREATE UNLOGGED TABLE rate_windows (
        key_id text PRIMARY KEY,
        started_at timestamptz NOT NULL,
        used integer NOT NULL
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE idempotent_answers (
        key_id text,
        idempotency_key text,
        fingerprint bytea NOT NULL,
        subject text,
        status smallint,
        headers jsonb,
        body bytea,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (key_id, idempotency_key)
    )
    """,
    "CREATE INDEX idempotent_answers_by_age ON idempotent_answers (created_at)",
)
