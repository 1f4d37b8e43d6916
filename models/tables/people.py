"""Profiles, data keys and consents."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Column, Identity, Index, LargeBinary, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from models.personal import Mask, personal
from models.tables.columns import as_written, moment, now, words


class User(SQLModel, table=True):
    """A profile. Attributes of a person are encrypted; what analytics groups by is in the clear."""

    __tablename__ = "users"
    __table_args__ = (
        Index("users_email_index", "email_index"),
        Index("users_by_stage", "lifecycle_stage", "user_id"),
        Index("users_by_status", "account_status", "user_id"),
        Index("users_by_closed_at", "closed_at", postgresql_where=text("closed_at IS NOT NULL")),
    )

    user_id: str = words(primary_key=True)
    email: bytes | None = personal(Mask.EMAIL, nullable=False)
    email_index: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """HMAC-SHA256 of the normalised address, with a key of its own: a lookup without the plaintext."""
    name: bytes | None = personal(Mask.WORDS, nullable=False)
    signup_date: datetime = moment()
    account_status: str = words()
    lifecycle_stage: str = words()
    lifecycle_stage_pinned: bool = False
    age: bytes | None = personal()
    date_of_birth: bytes | None = personal(Mask.DATE)
    gender: bytes | None = personal()
    country: str | None = words(nullable=True)
    city: bytes | None = personal(Mask.WORDS)
    timezone: bytes | None = personal()
    language: bytes | None = personal()
    device_type: bytes | None = personal()
    privacy_preferences: dict[str, bool] = Field(sa_column=Column(JSONB, nullable=False))
    subscription_tier: str | None = words(nullable=True)
    version: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=text("1")))
    created_at: datetime = now()
    updated_at: datetime = now()
    closed_at: datetime | None = moment(nullable=True)
    """Since when the account is closed."""


class DataKey(SQLModel, table=True):
    """A person's data key, wrapped by a key-encryption key; a destroyed one is the person's tombstone."""

    __tablename__ = "data_keys"

    subject: str = words(primary_key=True)
    """The user id, or a service's own subject, which starts with `~` as no user id does."""
    wrapped: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    created_at: datetime = now()
    destroyed_at: datetime | None = moment(nullable=True)


class Consent(SQLModel, table=True):
    """The present state of one person's consent to one purpose; no row is a refusal."""

    __tablename__ = "consents"

    user_id: str = words(primary_key=True)
    purpose: str = words(primary_key=True)
    granted: bool
    changed_at: datetime = as_written()


class ConsentRecord(SQLModel, table=True):
    """The history of consents: the runtime role may insert and read it, nothing else."""

    __tablename__ = "consent_history"
    __table_args__ = (Index("consent_history_by_user", "user_id", "record_id"),)

    record_id: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    user_id: str = words()
    purpose: str = words()
    granted: bool
    source: str = words()
    policy_version: str | None = words(nullable=True)
    legal_basis: str = Field(sa_column=Column(Text, nullable=False, server_default=text("'consent'")))
    actor: str = words()
    recorded_at: datetime = as_written()
