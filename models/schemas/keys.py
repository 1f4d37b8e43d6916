"""Schemas of `/keys`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from models.schemas.fields import PublicText, RequestSchema, ResponseSchema, ShortText
from models.vocabulary import Role

MAX_RATE_LIMIT = 1_000_000

RateLimit = Annotated[int, Field(ge=1, le=MAX_RATE_LIMIT)]


class KeyCreate(RequestSchema):
    """A new key."""

    name: Annotated[ShortText, PublicText] = Field(
        description="The team or system that uses the key; no address or telephone number.", examples=["crm-sync"]
    )
    role: Annotated[Role, Field(strict=False)]
    rate_limit: RateLimit | None = Field(
        default=None, description="Requests a minute; null: the installation's default."
    )


class Key(ResponseSchema):
    """A key, without its secret."""

    id: str
    name: str
    role: Role
    rate_limit: int | None
    created_at: datetime
    revoked_at: datetime | None = None


class KeyCreated(ResponseSchema):
    """A new key with its secret. The API shows it once and does not store it."""

    id: str
    key: str
    name: str
    role: Role
    rate_limit: int | None
    created_at: datetime
