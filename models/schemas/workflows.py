"""Schemas of `/workflows` and their instances."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from models.schemas.fields import RequestSchema, ResponseSchema, UserId, omittable
from models.vocabulary import InstanceStatus, ProblemKind, Purpose, WaitCondition

MaxAttempts = Annotated[StrictInt, Field(ge=1, le=100)]


class TriggerView(ResponseSchema):
    """The event that starts a workflow."""

    event_type: str = Field(examples=["user.signup"])
    where: dict[str, Any] = Field(description="Properties of the event, and the values they must have.")
    max_age: timedelta = Field(description="An event with an older timestamp starts nothing.")
    once_per: timedelta | None = Field(description="It starts at most once for a user in this time.")


class ExitView(ResponseSchema):
    """An event that ends a running instance at once."""

    event_type: str = Field(examples=["transaction.purchase_complete"])
    where: dict[str, Any] = Field(description="Properties of the event, and the values they must have.")
    parameters: dict[str, str] = Field(
        description="Properties of the event, and the parameters of the instance whose values they must equal.",
        examples=[{"order_id": "order_id"}],
    )
    condition: WaitCondition | None = Field(
        description="What must hold besides. `cart_empty`: the cart is empty after the event."
    )
    reason: str = Field(description="The reason with which the instance completes.")


class WorkflowView(ResponseSchema):
    """A lifecycle workflow of the catalogue."""

    workflow_id: str = Field(examples=["onboarding"])
    description: str
    parameters: dict[str, Any] = Field(description="JSON Schema; durations have the format `duration` (ISO 8601).")
    trigger: TriggerView | None = Field(description="The event that starts it; null: only requests do.")
    exit_on: list[ExitView] = Field(description="Events that end an instance early.")
    once: bool = Field(
        description="It runs once for a user, whether a trigger or a request starts it, "
        "unless a request says `again`."
    )
    key: list[str] = Field(
        description="Parameters for whose values at most one instance of a user runs; empty: it has no key.",
        examples=[["invoice_id"]],
    )
    purpose: Purpose | None = Field(description="The consent that it needs; null: none.")
    max_attempts: int = Field(description="Attempts at a step, unless the request sets another number.")
    enabled: bool


class WorkflowPatch(RequestSchema):
    """An admin's change to a workflow."""

    max_attempts: MaxAttempts | None = Field(default=None, description="Null: the workflow's own number.")
    enabled: StrictBool = omittable()


class ExecuteRequest(RequestSchema):
    """A request to run a workflow for a user."""

    user_id: UserId
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Must match the workflow's schema; each has a default."
    )
    max_attempts: MaxAttempts | None = Field(
        default=None, description="The most attempts at any step. Null: the numbers of the workflow and its steps."
    )
    again: StrictBool = Field(
        default=False, description="Also start a workflow that runs `once` for a user and has run, or runs now."
    )
    callback_url: StrictStr | None = Field(
        default=None,
        description="An https URL at a public address. The finished instance is sent there by POST, signed as a "
        "Standard Webhook with the `callback_secret` of the response.",
        examples=["https://shop.example.com/hooks/perennial"],
    )


class ErrorView(ResponseSchema):
    """Why an instance failed. Every role except admin sees text and stack masked."""

    error_type: str
    error_message: str
    failed_step: str | None
    stack_trace: str


class AttemptView(ResponseSchema):
    """One attempt at a step. `interrupted`: a fault of the platform ended it, and it doesn't count."""

    step: str
    attempt: int
    started_at: datetime
    ended_at: datetime | None
    error_type: str | None
    error_message: str | None
    interrupted: bool


class RetryingView(ResponseSchema):
    """A step that has failed and will be tried again."""

    step: str
    attempt: int = Field(description="The number of the attempt that failed.")
    next_attempt_at: datetime
    error_type: str | None


class CallbackView(ResponseSchema):
    """The state of an instance's callback."""

    status: str = Field(
        json_schema_extra={"enum": ["waiting", "delivered", "gone", "failed"]},
        description="`gone`: the receiver answered 410; no more attempts.",
    )
    attempts: int = Field(description="Attempts to deliver the latest end.")
    last_status: int | None = Field(description="The HTTP status of the last attempt; null: no response.")
    last_attempt_at: datetime | None


class TriggeredByView(ResponseSchema):
    """The event that started an instance."""

    event_id: str
    event_type: str | None = Field(
        description="Null only if an earlier version started the instance, and the event is no longer stored."
    )


class TemporalView(ResponseSchema):
    """The instance in Temporal."""

    workflow_id: str
    run_id: str | None
    ui: str | None


class ProblemView(ResponseSchema):
    """Why an instance doesn't go on."""

    kind: ProblemKind = Field(
        description="`incompatible_deploy`: the deployed code doesn't fit its history. `no_worker`: no worker "
        "polls its task queue. `history_lost`: Temporal has lost its history, and a replay starts it anew."
    )
    since: datetime = Field(description="When it was found.")


class InstanceView(ResponseSchema):
    """An instance of a workflow."""

    workflow_id: str
    instance_id: str
    user_id: str
    current_step: str | None
    status: InstanceStatus
    reason: str | None = Field(
        description="Why it ended: the workflow's own word, or another cause.",
        examples=["bought", "consent_withdrawn"],
    )
    start_time: datetime
    end_time: datetime | None
    parameters: dict[str, Any]
    variables: dict[str, Any]
    results: dict[str, Any] = Field(description="Results of completed steps and waits, by name.")
    error: ErrorView | None
    retries: list[AttemptView] = Field(description="All attempts at all steps, by time.")
    retrying: RetryingView | None = Field(
        description="The step whose next attempt is due first. Null if no step waits for one."
    )
    max_attempts: int
    bulk_id: str | None = Field(default=None, description="The bulk to which it belongs; null: none.")
    temporal: TemporalView
    waiting_until: datetime | None = Field(
        description="The deadline of the wait under way; of parallel waits, the earliest one. Null during a step, "
        "and after the end."
    )
    problem: ProblemView | None = Field(description="Why the instance doesn't go on; null: it does.")
    callback: CallbackView | None = Field(default=None, description="Null if none was requested.")
    trigger: TriggeredByView | None = Field(
        default=None, description="The event that started it; null: a request did."
    )
    key: dict[str, Any] | None = Field(
        default=None, description="The values of the workflow's key; null: it has none.", examples=[None]
    )
    stale: bool = Field(
        default=False, description="True if Temporal didn't answer: this is the last stored state."
    )


class ExecutedView(InstanceView):
    """A new instance. The API shows the secret of its callback only here."""

    callback_secret: str | None = Field(
        default=None,
        description="The secret that signs the callback, if the request has a `callback_url`.",
        examples=["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"],
    )


class FinishedInstance(InstanceView):
    """The body of a callback: the envelope of a webhook, with the instance as the executing key may see it.

    The instance's own fields also stand beside the envelope, where receivers of earlier versions read them.
    """

    type: Literal["workflow.instance_finished"] = "workflow.instance_finished"
    timestamp: datetime = Field(description="When the instance ended.")
    data: InstanceView
