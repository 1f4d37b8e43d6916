"""Payloads between the API, lifecycle workflows and their activities. They identify a person only by id."""

from __future__ import annotations

from datetime import datetime, time
from typing import Any, Literal, TypeVar
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field

from models.vocabulary import (
    Channel,
    InstanceStatus,
    LifecycleStage,
    MessageStatus,
    NotStarted,
    Suppression,
    WaitCondition,
)

HttpMethod = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
_STEPS = UUID("b6a7de0e-51c1-4b53-9a55-0d6e2a4be3f7")


class TemporalPayload(BaseModel):
    """Base of all payloads: immutable. Unknown fields are ignored, because a newer version may have added them."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class RecordedEvent(TemporalPayload):
    """An event of the instance's user (signal ``event_recorded``)."""

    event_id: str
    event_type: str
    timestamp: datetime
    step: str | None = None
    """The wait or exit that it matched; None: any."""


class WaitRequest(TemporalPayload):
    """An event that an instance waits for."""

    event_type: str
    """A type, a category (`engagement.*`) or `*`."""
    where: dict[str, Any] = Field(default_factory=dict)
    """Property names of the event and their required values."""
    same: list[str] = Field(default_factory=list)
    """Only in exits of instances that an earlier version started: names of properties that must equal those of the
    trigger. The activity that registers the wait reads their values."""
    since: datetime | None = None
    """Events with an earlier timestamp are ignored."""
    condition: WaitCondition | None = None
    """The event counts only if this holds when the event is found."""


class ExitRequest(WaitRequest):
    """An event that ends an instance at any point of its journey."""

    reason: str


class WaitResult(TemporalPayload):
    position: int
    event_type: str | None
    event_id: str | None
    timed_out: bool
    event_at: datetime | None = None
    """The event's timestamp; None without an event."""


class SleepResult(TemporalPayload):
    """The result of a sleep or of a wait for inactivity."""

    position: int
    until: datetime
    inactive: bool | None = None
    """Whether the user was inactive for long enough; None for a sleep."""


class ConditionResult(TemporalPayload):
    """The way that a journey went."""

    position: int
    met: bool


E = TypeVar("E", WaitResult, SleepResult, ConditionResult)


class LostRun(TemporalPayload):
    """What Postgres holds of a run whose history Temporal has lost."""

    ended: dict[str, WaitResult | SleepResult | ConditionResult] = Field(default_factory=dict)
    """Waits that have ended, and conditions, by step."""
    waits_until: dict[str, datetime] = Field(default_factory=dict)
    """The deadlines of the waits that were under way, by step."""
    started_at: datetime | None = None
    """The start of the instance."""


class LifecycleInput(TemporalPayload):
    instance_id: str
    user_id: str
    max_attempts: int
    limits_attempts: bool = False
    """Whether a request or an admin set the number. It then also limits steps with a number of their own."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """The JSON dump of the definition's parameter model. The workflow validates it again."""
    exits: list[ExitRequest] = Field(default_factory=list)
    """Events that end it early. They are fixed at the start: a changed definition doesn't affect the instance."""
    trigger: RecordedEvent | None = None
    """The event that started it; None for a request, and for instances that an earlier version started."""
    lost_run: LostRun | None = None
    """The run that this one replaces. Its waits don't begin anew (ADR 0045)."""

    def ended_in_lost_run(self, step: str, kind: type[E]) -> E | None:
        """The result of a wait that the lost run has ended, or of its condition."""
        found = self.lost_run.ended.get(step) if self.lost_run else None
        return found if isinstance(found, kind) else None

    def deadline(self, step: str, deadline: datetime) -> datetime:
        """The deadline that a wait had in the lost run, else the given one."""
        return self.lost_run.waits_until.get(step, deadline) if self.lost_run else deadline


class LifecycleOutcome(TemporalPayload):
    status: InstanceStatus
    reason: str | None = None


class InstanceQuestion(TemporalPayload):
    instance_id: str


class StepQuestion(TemporalPayload):
    instance_id: str
    step: str


class BackOff(TemporalPayload):
    """Whether a step's next attempt is far enough away to cancel it without cutting it short."""

    lasts: bool


class StoredEnd(TemporalPayload):
    """The stored end of an instance; None while it runs."""

    outcome: LifecycleOutcome | None


class StepContext(TemporalPayload):
    """The step that an activity executes. (instance, step) is the idempotency key."""

    workflow_id: str
    instance_id: str
    user_id: str
    step: str
    position: int
    """Ordinal of the step in the instance, from 1."""
    max_attempts: int
    waits_until: dict[str, datetime] = Field(default_factory=dict)
    """The deadlines of waits in parallel branches, by step."""
    holdable: bool = False
    """Whether a pause and a due exit hold its attempts. Not so in `at_exit` and after a cancellation."""
    non_retryable: list[str] = Field(default_factory=list)
    """Types of errors with which the step fails at once."""

    @property
    def idempotency_key(self) -> str:
        """For calls to other systems: 32 hexadecimal digits, the same at every attempt and after a replay."""
        return uuid5(_STEPS, f"{self.instance_id}/{self.step}").hex


class StepInput(TemporalPayload):
    """Base of every step's argument. :meth:`workflows.instance.Instance.step` sets ``context``."""

    context: StepContext | None = None

    @property
    def step_context(self) -> StepContext:
        """Raises ValueError if no workflow's ``step`` set the context."""
        if self.context is None:
            raise ValueError("this activity runs only as a step of a lifecycle workflow")
        return self.context


class Message(StepInput):
    """A message to the customer, from a template."""

    template: str
    channel: Channel = Channel.EMAIL


class Delivery(TemporalPayload):
    """The state of a message after its step; a suppressed one has a reason."""

    message_id: str
    status: MessageStatus
    reason: Suppression | None = None


class StageChange(StepInput):
    stage: LifecycleStage


class StageChanged(TemporalPayload):
    """``changed`` is False if the stage is pinned, or if the user is already in it."""

    stage: LifecycleStage
    changed: bool


class NewEvent(StepInput):
    """An event of the customer that a workflow records."""

    event_type: str
    properties: dict[str, Any] = Field(default_factory=dict)


class Emission(TemporalPayload):
    """The result of recording a :class:`NewEvent`; a rejected one has a reason."""

    event_id: str
    status: str
    """`accepted`, `duplicate` (an earlier attempt of the step stored it) or `rejected`."""
    reason: str | None = None


class HttpRequest(StepInput):
    """A request of JSON to a service of the operator."""

    method: HttpMethod
    base: str
    """The setting with the service's URL, such as `billing_url`."""
    path: str
    """`/invoices/{invoice_id}`; ``values`` fills the braces."""
    values: dict[str, str] = Field(default_factory=dict)
    query: dict[str, str] = Field(default_factory=dict)
    body: Any = None
    """A JSON value; None: no body."""
    accept: list[int] = Field(default_factory=list)
    """Statuses that are answers too, besides 2xx."""


class HttpAnswer(TemporalPayload):
    """The answer to a :class:`HttpRequest`."""

    status: int | None
    """The HTTP status; None if the step was skipped."""
    body: Any = None
    """The JSON of the answer; None if it has no body, or another media type."""
    skipped: bool = False
    """Whether there was no request, because the service's URL is not set."""


class NewStart(StepInput):
    """An instance of another workflow, for the same user."""

    workflow_id: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    """JSON values, as a request gives them; the others have their defaults."""


class Started(TemporalPayload):
    """Whether the instance of a :class:`NewStart` has started."""

    started: bool
    instance_id: str | None = None
    reason: NotStarted | None = None
    """Why it has not; None also for an erased or unknown user."""


class Quiet(TemporalPayload):
    """Quiet hours. They may include midnight. Equal times: none."""

    begins: time = time(21)
    ends: time = time(8)


class LocalTime(TemporalPayload):
    """A query for the next occurrence of a local time in a user's time zone."""

    user_id: str
    after: datetime
    at: time | None
    """None: the first time outside the quiet hours."""
    weekdays: list[int]
    """ISO weekdays: 1 (Monday) to 7."""
    quiet: Quiet


class Moment(TemporalPayload):
    """A time in UTC, which doesn't reveal the user's time zone."""

    at: datetime


class LastSeen(TemporalPayload):
    """A query for a user's latest event of a type, a category (`engagement.*`) or any type (`*`)."""

    user_id: str
    event_type: str


class LastEvent(TemporalPayload):
    """The event's timestamp; None if there is no such event."""

    at: datetime | None


class EventQuestion(TemporalPayload):
    """A query for the properties of a user's event."""

    user_id: str
    event_id: str
    timestamp: datetime


class EventProperties(TemporalPayload):
    """Encrypted in the history, as all payloads."""

    properties: dict[str, Any]


class CleanUp(StepInput):
    """Withdraw the unsent messages of a cancelled instance."""


class CleanedUp(TemporalPayload):
    messages_withdrawn: int


class StepFailure(TemporalPayload):
    """``failed_step`` is None for a bug in the journey itself."""

    error_type: str
    error_message: str
    failed_step: str | None
    stack_trace: str


class Recorded(TemporalPayload):
    """Events for the registered waits that the log held before the registration."""

    events: list[RecordedEvent] = Field(default_factory=list)


class Progress(TemporalPayload):
    """The state of an instance, written when it begins a wait, pauses, resumes or ends."""

    workflow_id: str = ""
    instance_id: str
    user_id: str
    status: InstanceStatus
    current_step: str | None
    variables: dict[str, Any] | None = None
    """None: unchanged since the last recording."""
    waits: dict[str, WaitResult | SleepResult | ConditionResult] = Field(default_factory=dict)
    """Results of waits that have ended, and of conditions, since the last recording, by step."""
    error: StepFailure | None = None
    registers: dict[str, WaitRequest] = Field(default_factory=dict)
    """New waits and exits, by name."""
    waits_until: dict[str, datetime] = Field(default_factory=dict)
    """The deadlines of the waits under way, by step."""
    reason: str | None = None
    """Why the journey ended."""
    once: bool = False
    """Whether the workflow runs once for a user, so that an exit doesn't close its window."""
