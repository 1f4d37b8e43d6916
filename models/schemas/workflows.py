"""Workflows and their instances on the wire."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import Field, StrictBool, StrictInt, StrictStr

from models.schemas.fields import RequestSchema, ResponseSchema, UserId, absent
from models.vocabulary import InstanceStatus, Purpose

MaxAttempts = Annotated[StrictInt, Field(ge=1, le=100)]


class TriggerView(ResponseSchema):
    """The event that starts a workflow by itself."""

    event_type: str = Field(examples=["user.signup"])
    where: dict[str, Any] = Field(description="Properties of the event, and the values they must have.")
    max_age: timedelta = Field(description="An event that is older by its own time starts nothing.")
    once_per: timedelta | None = Field(description="Within which time it starts at most once for a user.")


class ExitView(ResponseSchema):
    """An event that ends a running instance at once."""

    event_type: str = Field(examples=["transaction.purchase_complete"])
    where: dict[str, Any] = Field(description="Properties of the event, and the values they must have.")
    same_as_trigger: list[str] = Field(
        description="Properties that must be as in the event that started the instance, if one has.",
        examples=[["order_id"]],
    )
    reason: str = Field(description="What the instance completes with.")


class WorkflowView(ResponseSchema):
    """A lifecycle workflow of the catalogue."""

    workflow_id: str = Field(examples=["onboarding"])
    description: str
    parameters: dict[str, Any] = Field(description="JSON Schema; waits have the format `duration` (ISO 8601).")
    trigger: TriggerView | None = Field(description="What starts it by itself; null: only a request does.")
    exit_on: list[ExitView] = Field(description="What ends it early, however it was started.")
    purpose: Purpose | None = Field(description="The consent it needs; null: a service, which needs none.")
    max_attempts: int = Field(description="How often a step is tried, unless the request says otherwise.")
    enabled: bool


class WorkflowPatch(RequestSchema):
    """What an admin may change of a workflow."""

    max_attempts: MaxAttempts | None = Field(default=None, description="Null: as the workflow defines it.")
    enabled: StrictBool = absent()


class ExecuteRequest(RequestSchema):
    """A request to run a workflow for a user."""

    user_id: UserId
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="As the workflow's schema has them; each has a default."
    )
    max_attempts: MaxAttempts | None = Field(default=None, description="How often a step is tried.")
    callback_url: StrictStr | None = Field(
        default=None,
        description="Where the finished instance is POSTed to, signed as a Standard Webhook with the "
        "`callback_secret` of the answer. An https URL at a public address.",
        examples=["https://shop.example.com/hooks/perennial"],
    )


class ErrorView(ResponseSchema):
    """Why an instance failed. Text and stack are masked for all but admins."""

    error_type: str
    error_message: str
    failed_step: str | None
    stack_trace: str


class AttemptView(ResponseSchema):
    """One attempt at a step. `interrupted` ones were cut short by the platform and don't count."""

    step: str
    attempt: int
    started_at: datetime
    ended_at: datetime | None
    error_type: str | None
    error_message: str | None
    interrupted: bool


class CallbackView(ResponseSchema):
    """What became of an instance's callback."""

    status: str = Field(
        json_schema_extra={"enum": ["waiting", "delivered", "gone", "failed"]},
        description="`gone`: the other side has answered 410, and is told no more.",
    )
    attempts: int = Field(description="Tries to tell of its latest end.")
    last_status: int | None = Field(description="The HTTP status of the last try; null: it had no answer.")
    last_attempt_at: datetime | None


class TemporalView(ResponseSchema):
    """Where to find the instance in Temporal."""

    workflow_id: str
    run_id: str | None
    ui: str | None


class InstanceView(ResponseSchema):
    """An instance of a workflow."""

    workflow_id: str
    instance_id: str
    user_id: str
    current_step: str | None
    status: InstanceStatus
    reason: str | None = Field(
        description="Why it has ended: in the journey's own word, where it said so, or what else ended it.",
        examples=["bought", "consent_withdrawn"],
    )
    start_time: datetime
    end_time: datetime | None
    parameters: dict[str, Any]
    variables: dict[str, Any]
    results: dict[str, Any] = Field(description="What each completed step and wait gave, by its name.")
    error: ErrorView | None
    retries: list[AttemptView] = Field(description="Every attempt at every step, in order of time.")
    max_attempts: int
    temporal: TemporalView
    callback: CallbackView | None = Field(default=None, description="Null where none was asked for.")
    stale: bool = Field(
        default=False, description="True when Temporal couldn't be asked and this is what was last stored."
    )


class ExecutedView(InstanceView):
    """An instance as the answer to its execute; the secret of its callback is shown this once."""

    callback_secret: str | None = Field(default=None, examples=["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"])
