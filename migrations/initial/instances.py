"""Workflow instances, with their messages and callbacks."""

from __future__ import annotations

TABLES = (
    *("instances", "steps", "attempts", "dead_letters", "callbacks", "messages", "trigger_windows"),
    "workflow_settings",
)

STATEMENTS = (
    """
    CREATE TABLE instances (
        instance_id text PRIMARY KEY,
        workflow_id text NOT NULL,
        user_id text NOT NULL,
        status text NOT NULL,
        current_step text,
        run_id text,
        max_attempts smallint NOT NULL,
        parameters bytea,
        variables bytea,
        error bytea,
        started_by text NOT NULL,
        reason text,
        trigger_event_id text,
        events_since timestamptz,
        events_from timestamptz,
        purpose text,
        replaced_runs text[] NOT NULL DEFAULT '{}',
        replayed_at timestamptz,
        start_time timestamptz NOT NULL DEFAULT now(),
        end_time timestamptz
    )
    """,
    "CREATE INDEX instances_by_workflow ON instances (workflow_id, start_time, instance_id)",
    "CREATE INDEX instances_by_user ON instances (user_id, start_time, instance_id)",
    "CREATE INDEX instances_by_end ON instances (end_time) WHERE end_time IS NOT NULL",
    "CREATE INDEX instances_unstarted ON instances (start_time) WHERE run_id IS NULL AND end_time IS NULL",
    """
    CREATE TABLE steps (
        instance_id text,
        step text,
        position smallint NOT NULL,
        result bytea,
        completed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (instance_id, step)
    )
    """,
    """
    CREATE TABLE attempts (
        instance_id text,
        step text,
        attempt integer,
        started_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz,
        error_type text,
        error_message bytea,
        interrupted boolean NOT NULL DEFAULT false,
        PRIMARY KEY (instance_id, step, attempt)
    )
    """,
    """
    CREATE TABLE dead_letters (
        dead_letter_id text PRIMARY KEY,
        workflow_id text NOT NULL,
        instance_id text NOT NULL,
        user_id text NOT NULL,
        failed_step text NOT NULL,
        run_id text NOT NULL,
        error_type text NOT NULL,
        error bytea,
        attempts integer NOT NULL,
        status text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE UNIQUE INDEX dead_letters_of_step ON dead_letters (instance_id, failed_step)",
    "CREATE INDEX dead_letters_by_status ON dead_letters (status, created_at, dead_letter_id)",
    "CREATE INDEX dead_letters_by_age ON dead_letters (created_at, dead_letter_id)",
    "CREATE INDEX dead_letters_of_user ON dead_letters (user_id)",
    """
    CREATE TABLE callbacks (
        instance_id text PRIMARY KEY,
        user_id text NOT NULL,
        url bytea,
        secret bytea,
        status text NOT NULL DEFAULT 'waiting',
        attempts integer NOT NULL DEFAULT 0,
        last_status smallint,
        last_attempt_at timestamptz
    )
    """,
    """
    CREATE TABLE messages (
        message_id text PRIMARY KEY,
        instance_id text NOT NULL,
        step text NOT NULL,
        user_id text NOT NULL,
        channel text NOT NULL,
        template text NOT NULL,
        status text NOT NULL,
        recipient bytea,
        subject bytea,
        body bytea,
        purpose text,
        reason text,
        created_at timestamptz NOT NULL DEFAULT now(),
        authorized_at timestamptz,
        sent_at timestamptz
    )
    """,
    "CREATE UNIQUE INDEX messages_by_step ON messages (instance_id, step)",
    "CREATE INDEX messages_by_user ON messages (user_id, created_at)",
    "CREATE INDEX messages_by_age ON messages (created_at)",
    """
    CREATE TABLE trigger_windows (
        workflow_id text,
        user_id text,
        instance_id text NOT NULL,
        opened_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (workflow_id, user_id)
    )
    """,
    """
    CREATE TABLE workflow_settings (
        workflow_id text PRIMARY KEY,
        max_attempts smallint,
        enabled boolean NOT NULL DEFAULT true,
        changed_at timestamptz NOT NULL DEFAULT now()
    )
    """,
)
