"""Workflow instances with their steps, attempts, dead letters, callbacks and messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from models.personal import Mask, personal
from models.tables.columns import text_column, time_column, transaction_time


class Instance(SQLModel, table=True):
    """One execution of a lifecycle workflow for one user, as its worker or the reconciler last stored it."""

    __tablename__ = "instances"
    __table_args__ = (
        Index("instances_by_workflow", "workflow_id", "start_time", "instance_id"),
        Index("instances_by_user", "user_id", "start_time", "instance_id"),
        Index("instances_by_end", "end_time", postgresql_where=text("end_time IS NOT NULL")),
        Index("instances_unstarted", "start_time", postgresql_where=text("run_id IS NULL AND end_time IS NULL")),
        Index(
            "instances_with_problem",
            "problem",
            "start_time",
            "instance_id",
            postgresql_where=text("problem IS NOT NULL"),
        ),
        Index(
            "instances_running_key",
            "key_digest",
            unique=True,
            postgresql_where=text("end_time IS NULL AND key_digest IS NOT NULL"),
        ),
        Index("instances_of_bulk", "bulk_id", postgresql_where=text("bulk_id IS NOT NULL")),
    )

    instance_id: str = text_column(primary_key=True)
    workflow_id: str = text_column()
    user_id: str = text_column()
    status: str = text_column()
    current_step: str | None = text_column(nullable=True)
    run_id: str | None = text_column(nullable=True)
    """The Temporal run that last wrote to this row."""
    max_attempts: int = Field(sa_column=Column(SmallInteger, nullable=False))
    parameters: bytes | None = personal(Mask.TEXTS)
    variables: bytes | None = personal(Mask.TEXTS)
    error: bytes | None = personal()
    started_by: str = text_column()
    """The id of an API key, or `trigger`. A callback is masked for the role that this key has when it is sent."""
    reason: str | None = text_column(nullable=True)
    """The reason of the end: the journey's, the exit event's, or the platform's (`consent_withdrawn`,
    `account_closed`)."""
    trigger_event_id: str | None = text_column(nullable=True)
    """The event that started the instance. It ends no wait of this instance."""
    trigger_event_type: str | None = text_column(nullable=True)
    """The type of that event."""
    triggered_at: datetime | None = time_column(nullable=True)
    """The timestamp of that event. Waits consider later events, whenever they were received."""
    events_since: datetime | None = time_column(nullable=True)
    """Waits also consider events received since: the receipt of the trigger. NULL: the start of the instance."""
    events_from: datetime | None = time_column(nullable=True)
    """Waits consider events with this timestamp or a later one. NULL: from an hour before the start, because
    clocks differ."""
    purpose: str | None = text_column(nullable=True)
    """A withdrawal of this consent cancels the instance. NULL if it needs none."""
    key_digest: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    """Keyed digest of workflow, user and the values of the key's parameters. NULL if the workflow has no key."""
    bulk_id: str | None = text_column(nullable=True)
    """The request that started instances for many users."""
    start_tried_at: datetime | None = time_column(nullable=True)
    """When the outbox last began to start an instance of a bulk. NULL: it waits for its turn."""
    replaced_runs: list[str] = Field(
        sa_column=Column(ARRAY(Text), nullable=False, server_default=text("'{}'::text[]"))
    )
    """Temporal runs that a replay has replaced. The store rejects their writes."""
    replayed_at: datetime | None = time_column(nullable=True)
    """Attempts before this time don't count against the limit."""
    waits_until: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB))
    """The deadlines of the waits under way, by step. NULL: none."""
    problem: str | None = text_column(nullable=True)
    """A value of :class:`models.vocabulary.ProblemKind`; NULL: none is known."""
    problem_since: datetime | None = time_column(nullable=True)
    start_time: datetime = transaction_time()
    end_time: datetime | None = time_column(nullable=True)


class Step(SQLModel, table=True):
    """A completed step. A replay reads the result instead of executing the step again."""

    __tablename__ = "steps"

    instance_id: str = text_column(primary_key=True)
    step: str = text_column(primary_key=True)
    position: int = Field(sa_column=Column(SmallInteger, nullable=False))
    result: bytes | None = personal(Mask.TEXTS)
    completed_at: datetime = transaction_time()


class Attempt(SQLModel, table=True):
    """One attempt at a step. Without an end it still runs, or its worker died."""

    __tablename__ = "attempts"

    instance_id: str = text_column(primary_key=True)
    step: str = text_column(primary_key=True)
    attempt: int = Field(sa_column=Column(Integer, primary_key=True))
    started_at: datetime = transaction_time()
    ended_at: datetime | None = time_column(nullable=True)
    error_type: str | None = text_column(nullable=True)
    error_message: bytes | None = personal()
    interrupted: bool = Field(sa_column=Column(Boolean, nullable=False, server_default=text("false")))
    """A fault of the platform ended it, such as a killed worker; not counted against the limit."""
    next_attempt_at: datetime | None = time_column(nullable=True)
    """When the retry of a failed attempt is due. NULL after the last one."""


class DeadLetter(SQLModel, table=True):
    """The final failure of a step or of a journey's own code. An operator replays or discards it."""

    __tablename__ = "dead_letters"
    __table_args__ = (
        Index("dead_letters_of_step", "instance_id", "failed_step", unique=True),
        Index("dead_letters_by_status", "status", "created_at", "dead_letter_id"),
        Index("dead_letters_by_age", "created_at", "dead_letter_id"),
        Index("dead_letters_of_user", "user_id"),
    )

    dead_letter_id: str = text_column(primary_key=True)
    workflow_id: str = text_column()
    instance_id: str = text_column()
    user_id: str = text_column()
    failed_step: str = text_column()
    """Empty if the journey's own code failed."""
    run_id: str = text_column()
    """The Temporal run that failed."""
    error_type: str = text_column()
    error: bytes | None = personal()
    attempts: int = Field(sa_column=Column(Integer, nullable=False))
    """The number of final failures: 1, plus one for each failed replay."""
    status: str = text_column()
    created_at: datetime = transaction_time()
    updated_at: datetime = transaction_time()


class Callback(SQLModel, table=True):
    """The URL that receives the end of an instance, and the state of the delivery."""

    __tablename__ = "callbacks"

    instance_id: str = text_column(primary_key=True)
    user_id: str = text_column()
    url: bytes | None = personal()
    secret: bytes | None = personal()
    status: str = Field(sa_column=Column(Text, nullable=False, server_default=text("'waiting'")))
    attempts: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("0")))
    """Attempts to deliver the latest end. Their number determines the pause before the next."""
    last_status: int | None = Field(default=None, sa_column=Column(SmallInteger))
    """The HTTP status of the last attempt; NULL without a response."""
    last_attempt_at: datetime | None = time_column(nullable=True)


class Message(SQLModel, table=True):
    """A message to a customer, unique by (instance, step) and stored before it is sent."""

    __tablename__ = "messages"
    __table_args__ = (
        Index("messages_by_step", "instance_id", "step", unique=True),
        Index("messages_by_user", "user_id", "created_at"),
        Index("messages_by_age", "created_at"),
    )

    message_id: str = text_column(primary_key=True)
    instance_id: str = text_column()
    step: str = text_column()
    user_id: str = text_column()
    channel: str = text_column()
    template: str = text_column()
    status: str = text_column()
    recipient: bytes | None = personal(Mask.EMAIL)
    subject: bytes | None = personal()
    body: bytes | None = personal()
    purpose: str | None = text_column(nullable=True)
    """The consent that the message needs; NULL for a service message."""
    reason: str | None = text_column(nullable=True)
    """For `suppressed`: a value of :class:`models.vocabulary.Suppression`."""
    created_at: datetime = transaction_time()
    authorized_at: datetime | None = time_column(nullable=True)
    """The last time that the send gate authorized the message. The frequency cap counts by it."""
    sent_at: datetime | None = time_column(nullable=True)


class TriggerWindow(SQLModel, table=True):
    """The last start of a workflow for a user, and for a key if it has one. `once_per` counts from it."""

    __tablename__ = "trigger_windows"

    workflow_id: str = text_column(primary_key=True)
    user_id: str = text_column(primary_key=True)
    key_digest: bytes = Field(sa_column=Column(LargeBinary, primary_key=True, server_default=text("'\\x'::bytea")))
    """That of the instance; empty if the workflow has no key."""
    instance_id: str = text_column()
    opened_at: datetime | None = Field(
        default=None, sa_column=Column(DateTime(timezone=True), server_default=func.now())
    )
    """NULL: the start doesn't count for `once_per`, since a request made it or an exit came before a message."""


class Decision(SQLModel, table=True):
    """The triggers of a workflow that were not followed for a user, for one reason, in one hour (ADR 0044)."""

    __tablename__ = "decisions"
    __table_args__ = (Index("decisions_by_hour", "hour"),)

    user_id: str = text_column(primary_key=True)
    hour: datetime = Field(sa_column=Column(DateTime(timezone=True), primary_key=True))
    workflow_id: str = text_column(primary_key=True)
    reason: str = text_column(primary_key=True)
    """A value of :class:`models.vocabulary.NotStarted`."""
    at: datetime = transaction_time()
    """When the latest trigger of the hour was not followed."""
    event_id: str = text_column()
    """The event of that trigger."""
    first_at: datetime = transaction_time()
    first_event_id: str = text_column()
    times: int = Field(sa_column=Column(BigInteger, nullable=False))


class WorkflowSetting(SQLModel, table=True):
    """An admin's settings for a workflow; they override its definition."""

    __tablename__ = "workflow_settings"

    workflow_id: str = text_column(primary_key=True)
    max_attempts: int | None = Field(default=None, sa_column=Column(SmallInteger))
    enabled: bool = Field(sa_column=Column(Boolean, nullable=False, server_default=text("true")))
    changed_at: datetime = transaction_time()
