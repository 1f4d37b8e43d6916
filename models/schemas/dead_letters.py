"""Schemas of `/dead-letters`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt

from models.schemas.fields import RequestSchema, ResponseSchema, ShortText, Timestamp, UserId
from models.schemas.workflows import ErrorView
from models.vocabulary import DeadLetterStatus

Id = Annotated[ShortText, Field(description="As in an earlier response.")]


class DeadLetterView(ResponseSchema):
    """A step of an instance that has failed for good. Every role except admin sees text and stack masked."""

    id: str
    workflow_id: str
    instance_id: str
    user_id: str
    failed_step: str | None = Field(description="Null if the workflow's own code failed.")
    error: ErrorView | None = Field(description="Null once the person has been erased.")
    attempts: int = Field(description="The number of final failures: 1, plus one for each failed replay.")
    status: DeadLetterStatus
    created_at: datetime
    updated_at: datetime


class ReplayFilter(RequestSchema):
    """Selects open dead letters that match every given field; without any, all of them."""

    status: Literal["open"] = Field(default="open", description="Only open dead letters can be replayed.")
    workflow_id: Id | None = None
    instance_id: Id | None = None
    user_id: UserId | None = None
    failed_step: ShortText | None = None
    error_type: Annotated[ShortText, Field(examples=["SMTPConnectError"])] | None = None
    created_after: Timestamp | None = None
    created_before: Timestamp | None = None
    limit: Annotated[StrictInt, Field(ge=1, le=1000)] = Field(
        default=1000, description="At most this many, the oldest first."
    )
    per_second: Annotated[StrictFloat, Field(ge=0.01, le=100)] = Field(
        default=10,
        description="Replays a second, so that they don't overload the system that failed. The slowest pace is "
        "864 a day.",
    )
    dry_run: StrictBool = Field(default=False, description="Count what would be replayed, and replay nothing.")


class RefusedReplay(ResponseSchema):
    """A dead letter that can't be replayed and stays open."""

    id: str
    code: str = Field(examples=["consent_required", "user_erased"])


class ReplayAnswer(ResponseSchema):
    """The result of a request to replay many; of a `dry_run`: what it would be now."""

    dry_run: bool
    accepted: int
    refused: list[RefusedReplay]
    per_second: float
    remaining: bool = Field(description="Whether more may match than `limit`: then send the request again.")
