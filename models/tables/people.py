"""Profiles, data keys and consents."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Column, Identity, Index, Integer, LargeBinary, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from models.personal import Mask, personal
from models.tables.columns import row_time, text_column, time_column, transaction_time


class User(SQLModel, table=True):
    """A profile. Personal attributes are encrypted, except the dimensions of analytics."""

    __tablename__ = "users"
    __table_args__ = (
        Index("users_email_index", "email_index"),
        Index("users_by_stage", "lifecycle_stage", "user_id"),
        Index("users_by_status", "account_status", "user_id"),
        Index("users_by_closed_at", "closed_at", postgresql_where=text("closed_at IS NOT NULL")),
    )

    user_id: str = text_column(primary_key=True)
    email: bytes | None = personal(Mask.EMAIL, nullable=False)
    email_index: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """HMAC-SHA256 of the normalised address, with a separate key, for lookups."""
    name: bytes | None = personal(Mask.WORDS, nullable=False)
    signup_date: datetime = time_column()
    account_status: str = text_column()
    lifecycle_stage: str = text_column()
    lifecycle_stage_pinned: bool = False
    lifecycle_stage_changed_at: datetime = transaction_time()
    """When a caller, a workflow or an activity last changed the stage. Inactivity leaves it as it is."""
    age: bytes | None = personal()
    date_of_birth: bytes | None = personal(Mask.DATE)
    gender: bytes | None = personal()
    country: str | None = text_column(nullable=True)
    city: bytes | None = personal(Mask.WORDS)
    timezone: bytes | None = personal()
    language: bytes | None = personal()
    device_type: bytes | None = personal()
    privacy_preferences: dict[str, bool] = Field(sa_column=Column(JSONB, nullable=False))
    subscription_tier: str | None = text_column(nullable=True)
    version: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=text("1")))
    """Grows by one with each change."""
    created_at: datetime = transaction_time()
    updated_at: datetime = transaction_time()
    closed_at: datetime | None = time_column(nullable=True)
    attribute_times: dict[str, int] | None = Field(
        default=None, sa_column=Column(JSONB, nullable=True, server_default=text("'{}'"))
    )
    """By attribute (:mod:`models.rules.profile_changes`): microseconds since 1970 of its last change. NULL if the
    profile hasn't changed since it got the column."""
    writes: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    """Grows with each write of a key that may not read people, also with one that changes nothing."""
    person: int | None = Field(default=None, sa_column=Column(Integer, Identity(always=True), nullable=False))
    """Stands for the user in rollups. A number of the row, which says nothing of the person."""


class DataKey(SQLModel, table=True):
    """A person's data key, wrapped by a key-encryption key. The row of a destroyed key is the tombstone."""

    __tablename__ = "data_keys"

    subject: str = text_column(primary_key=True)
    """A user id, or a subject of the platform. Only the latter starts with `~`."""
    wrapped: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    created_at: datetime = transaction_time()
    destroyed_at: datetime | None = time_column(nullable=True)


class Consent(SQLModel, table=True):
    """The current state of a person's consent to a purpose. No row means denied."""

    __tablename__ = "consents"

    user_id: str = text_column(primary_key=True)
    purpose: str = text_column(primary_key=True)
    granted: bool
    changed_at: datetime = row_time()


class ConsentRecord(SQLModel, table=True):
    """An entry in the history of consents. The runtime role may only insert and select."""

    __tablename__ = "consent_history"
    __table_args__ = (Index("consent_history_by_user", "user_id", "record_id"),)

    record_id: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    user_id: str = text_column()
    purpose: str = text_column()
    granted: bool
    source: str = text_column()
    policy_version: str | None = text_column(nullable=True)
    legal_basis: str = Field(sa_column=Column(Text, nullable=False, server_default=text("'consent'")))
    actor: str = text_column()
    recorded_at: datetime = row_time()
