"""Dead letters on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StrictFloat, StrictInt

from models.schemas.fields import Moment, RequestSchema, ResponseSchema, ShortText, UserId
from models.schemas.workflows import ErrorView
from models.vocabulary import DeadLetterStatus

Id = Annotated[ShortText, Field(description="As it was answered.")]


class DeadLetterView(ResponseSchema):
    """A step of an instance that has failed for good. Text and stack are masked for all but admins."""

    id: str
    workflow_id: str
    instance_id: str
    user_id: str
    failed_step: str | None = Field(description="Null for a bug in the journey itself.")
    error: ErrorView | None = Field(description="Null once the person has been erased.")
    attempts: int = Field(description="How often it has failed for good: once, and once more per replay in vain.")
    status: DeadLetterStatus
    created_at: datetime
    updated_at: datetime


class ReplayFilter(RequestSchema):
    """Which open dead letters to replay: those for which everything that is given holds; without anything, all."""

    status: Literal[DeadLetterStatus.OPEN] = Field(
        default=DeadLetterStatus.OPEN, description="As the list has it; no other can be replayed."
    )
    workflow_id: Id | None = None
    instance_id: Id | None = None
    user_id: UserId | None = None
    failed_step: ShortText | None = None
    error_type: Annotated[ShortText, Field(examples=["SMTPConnectError"])] | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    limit: Annotated[StrictInt, Field(ge=1, le=1000)] = Field(default=1000, description="The oldest so many.")
    per_second: Annotated[StrictFloat, Field(ge=0.01, le=100)] = Field(
        default=10,
        description="The pace: whatever failed for all of them should not be overrun by them. The slowest takes a "
        "day for 864.",
    )


class RefusedReplay(ResponseSchema):
    """A dead letter that can't be replayed, and stays open."""

    id: str
    code: str = Field(examples=["consent_required", "user_erased"])


class ReplayAnswer(ResponseSchema):
    """What became of a request to replay many."""

    accepted: int
    refused: list[RefusedReplay]
    per_second: float
    remaining: bool = Field(description="Whether more than `limit` may match: send it again.")
