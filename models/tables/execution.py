"""What is kept of workflow instances: context, steps, attempts, and the messages they sent."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Boolean, Column, Index, Integer, SmallInteger, Text, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from models.personal import Mask, personal
from models.tables.columns import moment, now, words


class Instance(SQLModel, table=True):
    """One run of a lifecycle workflow for one user, as Temporal last told it."""

    __tablename__ = "instances"
    __table_args__ = (
        Index("instances_by_workflow", "workflow_id", "start_time", "instance_id"),
        Index("instances_by_user", "user_id", "start_time", "instance_id"),
        Index("instances_by_end", "end_time", postgresql_where=text("end_time IS NOT NULL")),
        Index("instances_unstarted", "start_time", postgresql_where=text("run_id IS NULL AND end_time IS NULL")),
    )

    instance_id: str = words(primary_key=True)
    workflow_id: str = words()
    user_id: str = words()
    status: str = words()
    current_step: str | None = words(nullable=True)
    run_id: str | None = words(nullable=True)
    """Temporal's run that last recorded something."""
    max_attempts: int = Field(sa_column=Column(SmallInteger, nullable=False))
    parameters: bytes | None = personal(Mask.TEXTS)
    variables: bytes | None = personal(Mask.TEXTS)
    error: bytes | None = personal()
    started_by: str = words()
    """The id of the API key, or what else started it. Its callback is sent as that key may see it by then."""
    reason: str | None = words(nullable=True)
    """Why it ended, in the journey's own word, that of the event that ended it, or ours (`consent_withdrawn`)."""
    trigger_event_id: str | None = words(nullable=True)
    """The event that started it; it ends none of its waits."""
    events_since: datetime | None = moment(nullable=True)
    """Events received from then on count for its waits, where it isn't its start: the receipt of its trigger."""
    events_from: datetime | None = moment(nullable=True)
    """Events count that happened from then on; None: up to an hour before its start, since clocks differ."""
    purpose: str | None = words(nullable=True)
    """The consent that it rests on: whoever withdraws that ends it. None for a service."""
    replaced_runs: list[str] = Field(
        sa_column=Column(ARRAY(Text), nullable=False, server_default=text("'{}'::text[]"))
    )
    """Temporal's runs that a replay has put an end to: nothing that they still write is taken."""
    replayed_at: datetime | None = moment(nullable=True)
    """Attempts from before don't count any more."""
    start_time: datetime = now()
    end_time: datetime | None = moment(nullable=True)


class Step(SQLModel, table=True):
    """A step that has completed, with its result: it is read back instead of being done twice."""

    __tablename__ = "steps"

    instance_id: str = words(primary_key=True)
    step: str = words(primary_key=True)
    position: int = Field(sa_column=Column(SmallInteger, nullable=False))
    result: bytes | None = personal(Mask.TEXTS)
    completed_at: datetime = now()


class Attempt(SQLModel, table=True):
    """One attempt at a step. An attempt without an end was interrupted, or is still under way."""

    __tablename__ = "attempts"

    instance_id: str = words(primary_key=True)
    step: str = words(primary_key=True)
    attempt: int = Field(sa_column=Column(Integer, primary_key=True))
    started_at: datetime = now()
    ended_at: datetime | None = moment(nullable=True)
    error_type: str | None = words(nullable=True)
    error_message: bytes | None = personal()
    interrupted: bool = Field(sa_column=Column(Boolean, nullable=False, server_default=text("false")))
    """Ended by trouble of the platform (Postgres away, process killed): it doesn't count."""


class DeadLetter(SQLModel, table=True):
    """A step (or, without one, a journey) that has failed for good, until somebody replays or discards it."""

    __tablename__ = "dead_letters"
    __table_args__ = (
        Index("dead_letters_of_step", "instance_id", "failed_step", unique=True),
        Index("dead_letters_by_status", "status", "created_at", "dead_letter_id"),
        Index("dead_letters_by_age", "created_at", "dead_letter_id"),
        Index("dead_letters_of_user", "user_id"),
    )

    dead_letter_id: str = words(primary_key=True)
    workflow_id: str = words()
    instance_id: str = words()
    user_id: str = words()
    failed_step: str = words()
    """Empty for a bug in the journey itself."""
    run_id: str = words()
    """Temporal's run that failed."""
    error_type: str = words()
    error: bytes | None = personal()
    attempts: int = Field(sa_column=Column(Integer, nullable=False))
    """How often it has failed for good: once, and once more for each replay in vain."""
    status: str = words()
    created_at: datetime = now()
    updated_at: datetime = now()


class Callback(SQLModel, table=True):
    """Where the end of an instance is to be told, and what became of it."""

    __tablename__ = "callbacks"

    instance_id: str = words(primary_key=True)
    user_id: str = words()
    url: bytes | None = personal()
    secret: bytes | None = personal()
    status: str = Field(sa_column=Column(Text, nullable=False, server_default=text("'waiting'")))
    attempts: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("0")))
    """Tries to tell of the latest end; by them goes when the next one is made."""
    last_status: int | None = Field(default=None, sa_column=Column(SmallInteger))
    """The HTTP status that the last try was answered with; None: it wasn't."""
    last_attempt_at: datetime | None = moment(nullable=True)


class Message(SQLModel, table=True):
    """A message to a customer: the intent is written before the effect, under (instance, step)."""

    __tablename__ = "messages"
    __table_args__ = (
        Index("messages_by_step", "instance_id", "step", unique=True),
        Index("messages_by_user", "user_id", "created_at"),
        Index("messages_by_age", "created_at"),
    )

    message_id: str = words(primary_key=True)
    instance_id: str = words()
    step: str = words()
    user_id: str = words()
    channel: str = words()
    template: str = words()
    status: str = words()
    recipient: bytes | None = personal(Mask.EMAIL)
    subject: bytes | None = personal()
    body: bytes | None = personal()
    purpose: str | None = words(nullable=True)
    """The consent that it needs; null for a service message."""
    reason: str | None = words(nullable=True)
    """Why it is `suppressed`."""
    created_at: datetime = now()
    authorized_at: datetime | None = moment(nullable=True)
    """When the send gate last authorized it; the frequency cap counts by this time."""
    sent_at: datetime | None = moment(nullable=True)


class TriggerWindow(SQLModel, table=True):
    """The last start of a workflow for a user by its trigger: what `once_per` counts from."""

    __tablename__ = "trigger_windows"

    workflow_id: str = words(primary_key=True)
    user_id: str = words(primary_key=True)
    instance_id: str = words()
    opened_at: datetime = now()


class WorkflowSetting(SQLModel, table=True):
    """What an admin has changed of a workflow's definition."""

    __tablename__ = "workflow_settings"

    workflow_id: str = words(primary_key=True)
    max_attempts: int | None = Field(default=None, sa_column=Column(SmallInteger))
    enabled: bool = Field(sa_column=Column(Boolean, nullable=False, server_default=text("true")))
    changed_at: datetime = now()
