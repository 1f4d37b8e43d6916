"""Schemas of `/keys`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from models.errors import FieldError, InvalidContentError
from models.schemas.fields import PublicText, RequestSchema, ResponseSchema, ShortText, omittable
from models.vocabulary import Role

MAX_RATE_LIMIT = 1_000_000

RateLimit = Annotated[int, Field(ge=1, le=MAX_RATE_LIMIT)]


KeyName = Annotated[
    ShortText,
    PublicText,
    Field(
        description="The team or system that uses the key; no address or telephone number.", examples=["crm-sync"]
    ),
]
OneRole = Annotated[Role, Field(strict=False, description="The key's only role.")]
SeveralRoles = Annotated[
    list[Annotated[Role, Field(strict=False)]],
    Field(
        min_length=1,
        max_length=len(Role),
        description="The key may do what any of them may. Masks are lifted only if one of them lifts them.",
        examples=[["integrator", "operator"]],
    ),
]


class _Roles(RequestSchema):
    role: OneRole = omittable()
    roles: SeveralRoles = omittable()

    def chosen(self) -> frozenset[Role] | None:
        """The roles; None without any. Raises :class:`InvalidContentError` for both fields at once."""
        given = self.model_fields_set & {"role", "roles"}
        if len(given) == 2:
            raise InvalidContentError([FieldError("/roles", "ambiguous", "must not be sent beside role")])
        if not given:
            return None
        return frozenset({self.role}) if "role" in given else frozenset(self.roles)


class KeyCreate(_Roles):
    """A new key, with either `role` or `roles`."""

    name: KeyName
    rate_limit: RateLimit | None = Field(
        default=None, description="Requests a minute; null: the installation's default."
    )

    def required_roles(self) -> frozenset[Role]:
        """Raises :class:`InvalidContentError` without any role."""
        roles = self.chosen()
        if roles is None:
            raise InvalidContentError([FieldError("/role", "required", "is required, unless roles has some")])
        return roles


class KeyPatch(_Roles):
    """Changes of a key. What is not sent stays."""

    name: KeyName = omittable()
    rate_limit: RateLimit | None = Field(
        default=None, description="Requests a minute; null: the installation's default."
    )


class Key(ResponseSchema):
    """A key, without its secret."""

    id: str
    name: str
    role: Role | None = Field(description="Null if the key has several.")
    roles: list[Role]
    rate_limit: int | None
    created_at: datetime
    revoked_at: datetime | None = None


class KeyCreated(ResponseSchema):
    """A new key with its secret. The API shows it once and does not store it."""

    id: str
    key: str
    name: str
    role: Role | None = Field(description="Null if the key has several.")
    roles: list[Role]
    rate_limit: int | None
    created_at: datetime


class KeyRotated(ResponseSchema):
    """A key's new secret. The API shows it once and does not store it."""

    id: str
    key: str
    replaced_until: datetime = Field(description="Until then the replaced secret is valid too.")
