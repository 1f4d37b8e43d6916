"""What is kept of workflow instances: context, steps, attempts, and the messages they sent."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Boolean, Column, Index, Integer, SmallInteger, text
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
    """The id of the API key, or what else started it."""
    reason: str | None = words(nullable=True)
    """Why it ended, in the journey's own word or that of the event that ended it."""
    trigger_event_id: str | None = words(nullable=True)
    """The event that started it; it ends none of its waits."""
    events_since: datetime | None = moment(nullable=True)
    """Events received from then on count for its waits, where it isn't its start: the receipt of its trigger."""
    events_from: datetime | None = moment(nullable=True)
    """Events count that happened from then on; None: up to an hour before its start, since clocks differ."""
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


class OutboxMessage(SQLModel, table=True):
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
    left_at: datetime | None = moment(nullable=True)
    """When it was let go; what the frequency cap counts by."""
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
