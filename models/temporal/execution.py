"""What travels between the API, lifecycle workflows and their activities: ids, never people."""

from __future__ import annotations

from datetime import datetime, time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from models.vocabulary import Channel, InstanceStatus, LifecycleStage, MessageStatus, Suppression


class TemporalPayload(BaseModel):
    """Base of all messages: immutable, and tolerant of fields that a newer version has added."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class RecordedEvent(TemporalPayload):
    """The fact that an event of the instance's user was recorded (signal ``event_recorded``)."""

    event_id: str
    event_type: str
    timestamp: datetime
    step: str | None = None
    """The wait or exit that it was matched for; None: any."""


class WaitRequest(TemporalPayload):
    """An event that an instance waits for."""

    event_type: str
    """A type, a category (`engagement.*`) or `*`."""
    where: dict[str, Any] = Field(default_factory=dict)
    """Property names of the event and the values they must have."""
    same: list[str] = Field(default_factory=list)
    """Property names whose values must be those of the event that started the instance. The activity that
    registers the wait reads these values, so they don't reach Temporal."""
    since: datetime | None = None
    """Events that happened before are ignored."""


class ExitRequest(WaitRequest):
    """An event that ends an instance at any point of its journey."""

    reason: str


class LifecycleInput(TemporalPayload):
    """The start of an instance."""

    instance_id: str
    user_id: str
    max_attempts: int
    parameters: dict[str, Any] = Field(default_factory=dict)
    """As the definition's parameter model dumps them; validated again by the workflow."""
    exits: list[ExitRequest] = Field(default_factory=list)
    """Events that end it early. They are part of the start, so that a changed definition doesn't affect it."""


class LifecycleOutcome(TemporalPayload):
    """The end of an instance."""

    status: InstanceStatus
    reason: str | None = None


class InstanceQuestion(TemporalPayload):
    """A question about an instance."""

    instance_id: str


class StoredEnd(TemporalPayload):
    """How an instance has ended, as it is stored; None: it hasn't."""

    outcome: LifecycleOutcome | None


class StepContext(TemporalPayload):
    """Which step of which instance an activity works for; (instance, step) is its idempotency key."""

    workflow_id: str
    instance_id: str
    user_id: str
    step: str
    position: int
    """Ordinal of the step in the instance, from 1."""
    max_attempts: int


class StepInput(TemporalPayload):
    """Base of every step's argument. The base class of the workflows fills ``context`` in."""

    context: StepContext | None = None

    @property
    def step_context(self) -> StepContext:
        """The context; ValueError where the message didn't come through a workflow's ``step``."""
        if self.context is None:
            raise ValueError("this activity runs only as a step of a lifecycle workflow")
        return self.context


class Message(StepInput):
    """A message to the customer, from a template."""

    template: str
    channel: Channel = Channel.EMAIL


class Delivery(TemporalPayload):
    """What became of a message; a suppressed one has a reason."""

    message_id: str
    status: MessageStatus
    reason: Suppression | None = None


class StageChange(StepInput):
    """A move to a lifecycle stage."""

    stage: LifecycleStage


class StageChanged(TemporalPayload):
    """What became of a move: a pinned stage, or one that is there already, is left alone."""

    stage: LifecycleStage
    changed: bool


class NewEvent(StepInput):
    """An event of the customer that a workflow records."""

    event_type: str
    properties: dict[str, Any] = Field(default_factory=dict)


class Emission(TemporalPayload):
    """What became of such an event; one that wasn't taken has a reason."""

    event_id: str
    status: str
    """`accepted`, `duplicate` (an earlier attempt of the step stored it) or `rejected`."""
    reason: str | None = None


class Quiet(TemporalPayload):
    """Hours of the day in which nobody is to be disturbed; may run over midnight. The same twice: none."""

    begins: time = time(21)
    ends: time = time(8)


class LocalTime(TemporalPayload):
    """A question for the next moment of some wall-clock time where a user lives."""

    user_id: str
    after: datetime
    at: time | None
    """None: as soon as it is outside the quiet hours."""
    weekdays: list[int]
    """From 1, Monday, to 7; the days that count."""
    quiet: Quiet


class Moment(TemporalPayload):
    """A moment; nothing tells where the user lives."""

    at: datetime


class LastSeen(TemporalPayload):
    """A question for the latest event of a user, of a type, a category (`engagement.*`) or any (`*`)."""

    user_id: str
    event_type: str


class LastEvent(TemporalPayload):
    """When that event happened; None where there is none."""

    at: datetime | None


class CleanUp(StepInput):
    """Undo what a cancelled instance has begun but not finished."""


class CleanedUp(TemporalPayload):
    """What a clean-up undid."""

    messages_withdrawn: int


class StepFailure(TemporalPayload):
    """Why an instance failed; ``failed_step`` is None for a bug in the journey itself."""

    error_type: str
    error_message: str
    failed_step: str | None
    stack_trace: str


class WaitResult(TemporalPayload):
    """How a wait ended."""

    position: int
    event_type: str | None
    event_id: str | None
    timed_out: bool


class SleepResult(TemporalPayload):
    """How a sleep or a wait for inactivity ended."""

    position: int
    until: datetime
    inactive: bool | None = None
    """Whether the user was inactive for long enough; None for a sleep."""


class Recorded(TemporalPayload):
    """The events that were in the log before the recording registered the waits that they match."""

    events: list[RecordedEvent] = Field(default_factory=list)


class Progress(TemporalPayload):
    """The state of an instance: written when it begins a wait, pauses, resumes or ends."""

    workflow_id: str = ""
    instance_id: str
    user_id: str
    status: InstanceStatus
    current_step: str | None
    variables: dict[str, Any] | None = None
    """None: unchanged since the last recording."""
    waits: dict[str, WaitResult | SleepResult] = Field(default_factory=dict)
    """Results of waits that have ended since the last recording, by step."""
    error: StepFailure | None = None
    registers: dict[str, WaitRequest] = Field(default_factory=dict)
    """Events that the instance waits for from now on, by the name of the wait or exit."""
    reason: str | None = None
    """Why the journey ended."""
