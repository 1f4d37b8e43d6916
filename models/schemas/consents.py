"""Schemas of `/users/{user_id}/consents` and `/consents/batch`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictBool

from models.schemas.common import Page
from models.schemas.fields import RequestSchema, ResponseSchema, UserId, Word
from models.schemas.users import MAX_BATCH, Consents, ItemError
from models.vocabulary import Purpose

LegalBasis = Literal[
    "consent", "contract", "legal_obligation", "vital_interests", "public_task", "legitimate_interests"
]
"""GDPR, article 6 (1)."""


class ConsentInput(RequestSchema):
    """A consent to a purpose or its withdrawal, with its source and policy."""

    granted: StrictBool
    source: Word = Field(
        default="api",
        description="The form or system where it was given: a word, not a text.",
        examples=["signup_form", "import:crm-2026"],
    )
    policy_version: Word | None = Field(default=None, examples=["2026-01"])
    legal_basis: LegalBasis = "consent"


class ConsentItem(ConsentInput):
    """An item of a batch: a person's consent to a purpose or its withdrawal."""

    user_id: UserId
    purpose: Annotated[Purpose, Field(strict=False)]


class ConsentBatch(RequestSchema):
    """Up to 1,000 consents. The API checks each item separately and records the valid ones in order."""

    items_field: ClassVar[str] = "consents"

    consents: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH)] = Field(
        json_schema_extra={"items": {"$ref": "#/components/schemas/ConsentItem"}}
    )


class ConsentBatchResult(ResponseSchema):
    """The result for one item. `unchanged`: the person's last decision is the same, or stays."""

    index: int
    user_id: str | None = Field(description="Null if the item has no valid one.")
    purpose: Purpose | None = Field(description="Null if the item has no valid one.")
    status: str = Field(json_schema_extra={"enum": ["changed", "unchanged", "rejected"]})
    errors: list[ItemError]


class ConsentBatchAnswer(ResponseSchema):
    """The results for a batch."""

    changed: int
    unchanged: int
    rejected: int
    results: list[ConsentBatchResult]


class ConsentView(ResponseSchema):
    """The current state of a person's consent to a purpose."""

    user_id: str
    purpose: Purpose
    granted: bool
    changed_at: datetime | None = Field(
        description="Null if nothing was recorded: then `granted` is false. Null in any answer to an integrator."
    )
    source: str | None
    policy_version: str | None
    legal_basis: str | None


class UserConsents(ResponseSchema):
    """A person's consents: by purpose, and in detail."""

    user_id: str
    consents: Consents
    details: list[ConsentView]


class ConsentRecordView(ResponseSchema):
    """One entry of the append-only history."""

    purpose: Purpose
    granted: bool
    source: str
    policy_version: str | None
    legal_basis: str
    actor: str = Field(description="The id of the API key that sent it.")
    recorded_at: datetime


ConsentHistory = Page[ConsentRecordView]
