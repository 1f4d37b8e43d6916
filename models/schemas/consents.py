"""Consents on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field, StrictBool

from models.schemas.fields import RequestSchema, ResponseSchema, ShortText
from models.schemas.pages import Page
from models.schemas.users import Consents
from models.vocabulary import Purpose

LegalBasis = Literal[
    "consent", "contract", "legal_obligation", "vital_interests", "public_task", "legitimate_interests"
]
"""GDPR, article 6 (1)."""


class ConsentInput(RequestSchema):
    """What a person has said about a purpose, where, and under which policy."""

    granted: StrictBool
    source: ShortText = Field(default="api", description="Where it was said.", examples=["signup_form"])
    policy_version: ShortText | None = Field(default=None, examples=["2026-01"])
    legal_basis: LegalBasis = "consent"


class ConsentView(ResponseSchema):
    """What a person has said about a purpose last."""

    user_id: str
    purpose: Purpose
    granted: bool
    changed_at: datetime | None = Field(description="Null where nothing has been said: a refusal.")
    source: str | None
    policy_version: str | None
    legal_basis: str | None


class UserConsents(ResponseSchema):
    """A person's consents: by purpose as the profile has them, and each with what it rests on."""

    user_id: str
    consents: Consents
    details: list[ConsentView]


class ConsentRecordView(ResponseSchema):
    """One entry of the history, which is only ever added to."""

    purpose: Purpose
    granted: bool
    source: str
    policy_version: str | None
    legal_basis: str
    actor: str = Field(description="The id of the API key that passed it on.")
    recorded_at: datetime


ConsentHistory = Page[ConsentRecordView]
