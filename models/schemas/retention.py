"""Schemas of `/retention`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, StrictBool

from models.rules.retention import DATA_TYPES, MAX_DAYS
from models.schemas.fields import RequestSchema, ResponseSchema

Days = Annotated[int, Field(ge=1, le=MAX_DAYS)]


class RetentionInput(RequestSchema):
    """A new retention period."""

    days: Days | None = Field(
        description="Days. Null, where the data type allows it: no period, kept as long as the account exists."
    )


class RetentionView(ResponseSchema):
    """How long a data type is kept."""

    data_type: str = Field(json_schema_extra={"enum": list(DATA_TYPES)})
    days: int | None = Field(description="Null: as long as the account exists.")
    default_days: int | None
    description: str = Field(description="The data that is deleted, and the time from which its period counts.")
    changed_at: datetime | None = Field(description="Null while the default applies.")
    changed_by: str | None = Field(description="The id of the API key that set it.")


class Retentions(ResponseSchema):
    """How long each data type is kept."""

    data: list[RetentionView]


class RetentionRunInput(RequestSchema):
    """A retention run, or with `dry_run` a count of what one would do."""

    dry_run: StrictBool = Field(default=False, description="Count what would be deleted, and delete nothing.")
    data_types: Annotated[list[Any], Field(min_length=1, max_length=len(DATA_TYPES))] | None = Field(
        default=None,
        description="Only these data types; all by default.",
        json_schema_extra={"items": {"type": "string", "enum": list(DATA_TYPES)}},
    )


class DuePart(ResponseSchema):
    """What a run would do with one part of a data type."""

    part: str = Field(description="A table, or a partition of the event log.", examples=["events_2025_10"])
    action: str = Field(
        json_schema_extra={"enum": ["drop", "delete", "erase"]},
        description="`erase`: people who are due for erasure.",
    )
    rows: int | None = Field(description="Null for a partition that is being detached already.")


class DueData(ResponseSchema):
    """What a run would do with one data type."""

    data_type: str
    days: int | None
    older_than: datetime | None = Field(
        description="Data from before this time has expired; null without a period."
    )
    rows: int = Field(description="Rows of all parts.")
    parts: list[DuePart]


class DryRun(ResponseSchema):
    """What a run would delete now. Nothing was changed."""

    dry_run: bool
    as_of: datetime
    data: list[DueData]


class RunResult(ResponseSchema):
    """The progress of a run in one part of a data type."""

    data_type: str
    part: str
    action: str = Field(
        json_schema_extra={"enum": ["dropped", "deleted", "held", "due"]},
        description="`held`: expired, and kept for now. `due`: people who are due for erasure; counted only.",
    )
    rows: int
    older_than: datetime
    updated_at: datetime


class RunSummary(ResponseSchema):
    """A retention run."""

    run_id: str
    status: str = Field(json_schema_extra={"enum": ["running", "completed", "failed"]})
    requested_by: str = Field(description="The id of an API key, or `system:retention`.")
    data_types: list[str]
    failed: list[str] = Field(description="The data types whose purge failed.")
    started_at: datetime
    finished_at: datetime | None


class RunView(RunSummary):
    """A retention run with its progress."""

    results: list[RunResult]
