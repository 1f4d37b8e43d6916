"""Retention on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, StrictBool

from models.rules.retention import DATA_TYPES, MAX_DAYS
from models.schemas.fields import Answer, Wire

Days = Annotated[int, Field(ge=1, le=MAX_DAYS)]


class RetentionInput(Wire):
    """How long a type of data is kept."""

    days: Days | None = Field(
        description="Days; null, for the types that allow it: without a period, as long as the account lives."
    )


class RetentionView(Answer):
    """How long a type of data is kept."""

    data_type: str = Field(json_schema_extra={"enum": list(DATA_TYPES)})
    days: int | None = Field(description="Null: as long as the account lives.")
    default_days: int | None
    description: str = Field(description="What goes when the period is over, and from when it counts.")
    changed_at: datetime | None = Field(description="Null while the default holds.")
    changed_by: str | None = Field(description="The id of the API key that set it.")


class Retentions(Answer):
    """How long each type of data is kept."""

    data: list[RetentionView]


class RetentionRunInput(Wire):
    """A run of the retention, or with ``dry_run`` a count of what one would do."""

    dry_run: StrictBool = Field(default=False, description="Count what would go, and delete nothing.")
    data_types: Annotated[list[Any], Field(min_length=1, max_length=len(DATA_TYPES))] | None = Field(
        default=None,
        description="Only these; all where it is left out.",
        json_schema_extra={"items": {"type": "string", "enum": list(DATA_TYPES)}},
    )


class DuePart(Answer):
    """What would become of one part of a type of data."""

    part: str = Field(description="A table, or a month of events.", examples=["events_2025_10"])
    action: str = Field(
        json_schema_extra={"enum": ["drop", "delete", "erase"]},
        description="`erase`: people who are due for erasure.",
    )
    rows: int | None = Field(description="Null for a month that is on its way out already.")


class DueData(Answer):
    """What would go of one type of data."""

    data_type: str
    days: int | None
    older_than: datetime | None = Field(description="Data from before this goes; null without a period.")
    rows: int = Field(description="Rows of all parts.")
    parts: list[DuePart]


class DryRun(Answer):
    """What a run would do now. Nothing was changed."""

    dry_run: bool
    as_of: datetime
    data: list[DueData]


class RunResult(Answer):
    """What a run has done with one part of a type of data so far."""

    data_type: str
    part: str
    action: str = Field(
        json_schema_extra={"enum": ["dropped", "deleted", "held", "due"]},
        description="`held`: past its period, and kept for now. `due`: people to be erased; nothing was done.",
    )
    rows: int
    older_than: datetime
    updated_at: datetime


class RunSummary(Answer):
    """A run of the retention."""

    run_id: str
    status: str = Field(json_schema_extra={"enum": ["running", "completed", "failed"]})
    requested_by: str = Field(description="The id of an API key, or `system:retention`.")
    data_types: list[str]
    failed: list[str] = Field(description="The types of data of which not all could be done.")
    started_at: datetime
    finished_at: datetime | None


class RunView(RunSummary):
    """A run of the retention, and what it has done so far."""

    results: list[RunResult]
