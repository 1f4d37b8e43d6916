"""Schemas of `/audit`."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from models.audit import AuditOutcome, Detail
from models.schemas.fields import ResponseSchema


class AuditEntryView(ResponseSchema):
    """One access to personal data."""

    audit_id: str
    occurred_at: datetime
    actor: str = Field(description="The id of the API key, or for example `system:retention`.")
    role: str
    action: str = Field(examples=["users.read"])
    user_id: str | None = Field(description="The user whose data the request was for.")
    subjects: list[str] = Field(
        description="Users that a list showed or a batch wrote; a list of entries holds the first 100."
    )
    subject_count: int = Field(description="The number of all subjects.")
    fields: list[str] = Field(description="Names of the attributes that were shown or written.")
    request_id: str | None
    outcome: AuditOutcome
    details: dict[str, Detail]


class AuditHeadView(ResponseSchema):
    """The newest checkpoint; all null without one. Its head covers every row up to the end of its hour."""

    hour: datetime | None = Field(description="The start of the checkpoint's hour.")
    head: str | None = Field(description="64 hexadecimal digits; `perennial audit verify --head` takes them.")
    rows: int | None = Field(description="The number of rows of that hour.")
    created_at: datetime | None
