"""What travels between the API, lifecycle workflows and their activities: ids, never people."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from models.vocabulary import InstanceStatus, LifecycleStage, MessageStatus


class TemporalMessage(BaseModel):
    """Base of all messages: immutable, and tolerant of fields that a newer version has added."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class LifecycleInput(TemporalMessage):
    """The start of an instance."""

    instance_id: str
    user_id: str
    max_attempts: int
    parameters: dict[str, Any] = Field(default_factory=dict)
    """As the definition's parameter model dumps them; validated again by the workflow."""


class LifecycleOutcome(TemporalMessage):
    """The end of an instance."""

    status: InstanceStatus
    reason: str | None = None


class StepContext(TemporalMessage):
    """Which step of which instance an activity works for; (instance, step) is its idempotency key."""

    workflow_id: str
    instance_id: str
    user_id: str
    step: str
    position: int
    """The how-manyth step of the instance it is, from 1."""
    max_attempts: int


class StepMessage(TemporalMessage):
    """Base of every step's argument. The base class of the workflows fills ``context`` in."""

    context: StepContext | None = None

    @property
    def step_context(self) -> StepContext:
        """The context; ValueError where the message didn't come through a workflow's ``step``."""
        if self.context is None:
            raise ValueError("this activity runs only as a step of a lifecycle workflow")
        return self.context


class Message(StepMessage):
    """A message to the customer, from a template."""

    template: str


class Delivery(TemporalMessage):
    """What became of a message."""

    message_id: str
    status: MessageStatus


class StageChange(StepMessage):
    """A move to a lifecycle stage."""

    stage: LifecycleStage


class StageChanged(TemporalMessage):
    """What became of a move: a pinned stage, or one that is there already, is left alone."""

    stage: LifecycleStage
    changed: bool


class CleanUp(StepMessage):
    """Undo what a cancelled instance has begun but not finished."""


class CleanedUp(TemporalMessage):
    """What a clean-up undid."""

    messages_withdrawn: int


class StepFailure(TemporalMessage):
    """Why an instance failed; ``failed_step`` is None for a bug in the journey itself."""

    error_type: str
    error_message: str
    failed_step: str | None
    stack_trace: str


class WaitResult(TemporalMessage):
    """How a wait ended."""

    position: int
    event_type: str | None
    event_id: str | None
    timed_out: bool


class WaitRequest(TemporalMessage):
    """An event that an instance waits for."""

    event_type: str
    """A type, a category (`engagement.*`) or `*`."""
    where: dict[str, Any] = Field(default_factory=dict)
    """Property names of the event and the values they must have."""


class RecordedEvent(TemporalMessage):
    """The fact that an event of the instance's user was recorded (signal ``event_recorded``)."""

    event_id: str
    event_type: str
    timestamp: datetime
    step: str | None = None
    """The wait that it is told for; None: for any."""


class Recorded(TemporalMessage):
    """What the writing of progress found: events that the wait it registered had been too late for."""

    events: list[RecordedEvent] = Field(default_factory=list)


class Progress(TemporalMessage):
    """Where an instance stands: written when it begins a wait, pauses, resumes or ends."""

    workflow_id: str = ""
    instance_id: str
    user_id: str
    status: InstanceStatus
    current_step: str | None
    variables: dict[str, Any] | None = None
    """The variables, where they have changed since they were last written."""
    waits: dict[str, WaitResult] = Field(default_factory=dict)
    """Results of waits that have ended since the last writing."""
    error: StepFailure | None = None
    waiting_for: WaitRequest | None = None
    """The wait that begins now, as ``current_step``."""
