"""The audit log, as it is read."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from models.audit import AuditOutcome, Detail
from models.schemas.fields import Answer


class AuditEntryView(Answer):
    """One access to personal data."""

    audit_id: str
    occurred_at: datetime
    actor: str = Field(description="The id of the API key, or `system:` and what the platform did.")
    role: str
    action: str = Field(examples=["users.read"])
    user_id: str | None = Field(description="Whose data the request was for.")
    subjects: list[str] = Field(description="Whom a list showed or a batch wrote: the first 100 of them.")
    subject_count: int = Field(description="How many they are in all.")
    fields: list[str] = Field(description="Names of the attributes that were shown or written.")
    request_id: str | None
    outcome: AuditOutcome
    details: dict[str, Detail]


class AuditHeadView(Answer):
    """The newest checkpoint: its head stands for every row of every hour up to it. Null while nothing is checkpointed."""

    hour: datetime | None = Field(description="The beginning of the hour that it checkpoints.")
    head: str | None = Field(description="64 hexadecimal digits; `perennial audit verify --head` takes them.")
    rows: int | None = Field(description="How many rows that hour has.")
    created_at: datetime | None
