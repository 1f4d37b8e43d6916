"""Schemas of bulks: one workflow, executed for many users."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import Field, StrictFloat

from models.schemas.fields import RequestSchema, ResponseSchema, UserId
from models.schemas.users import MAX_BATCH, ItemError
from models.schemas.workflows import MaxAttempts
from models.vocabulary import InstanceStatus


class BulkUser(RequestSchema):
    """A user of a bulk. The request holds the id alone."""

    user_id: UserId


class ExecuteBatchRequest(RequestSchema):
    """A request to run a workflow for up to 1,000 users, each checked separately."""

    items_field: ClassVar[str] = "user_ids"

    user_ids: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH)] = Field(
        json_schema_extra={"items": {"type": "string"}}, examples=[["u-1", "u-2"]]
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="For all of them. Must match the workflow's schema; each has a default."
    )
    max_attempts: MaxAttempts | None = Field(default=None, description="Attempts at a step.")
    per_second: Annotated[StrictFloat, Field(ge=1, le=100)] = Field(
        default=20, description="Starts a second. A workflow's bulks start one after another."
    )


class BulkResult(ResponseSchema):
    """The result for one user."""

    index: int
    user_id: str | None = Field(description="Null if the item is no valid one.")
    status: str = Field(json_schema_extra={"enum": ["started", "rejected"]})
    instance_id: str | None = Field(
        description="The new instance; of a rejected user the one that prevents it, if there is one."
    )
    errors: list[ItemError]


class BulkAnswer(ResponseSchema):
    """The instances are stored. They start in their order, `per_second`."""

    bulk_id: str
    started: int
    rejected: int
    results: list[BulkResult]


class BulkView(ResponseSchema):
    """The state of a bulk: its instances that are still kept."""

    bulk_id: str
    workflow_id: str
    created_at: datetime
    instances: int
    queued: int = Field(description="Of the running ones, those that wait for their turn.")
    statuses: dict[InstanceStatus, int] = Field(description="Instances by status.")
