"""API keys, their rate limits, and stored responses to idempotent requests."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Index, Integer, LargeBinary, SmallInteger, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from models.personal import Mask, personal
from models.tables.columns import text_column, time_column, transaction_time


class ApiKey(SQLModel, table=True):
    """Only the SHA-256 of a key is stored. Revoked keys stay, because the audit log refers to them."""

    __tablename__ = "api_keys"
    __table_args__ = (Index("api_keys_by_hash", "hash", unique=True),)

    key_id: str = text_column(primary_key=True)
    name: str = text_column()
    roles: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    """It may do what any of them may."""
    rate_limit: int | None = Field(default=None, sa_column=Column(Integer))
    hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: datetime = transaction_time()
    revoked_at: datetime | None = time_column(nullable=True)


class ReplacedSecret(SQLModel, table=True):
    """The SHA-256 of a secret that a rotation has replaced. Clients may use it until it expires."""

    __tablename__ = "replaced_secrets"

    hash: bytes = Field(sa_column=Column(LargeBinary, primary_key=True))
    key_id: str = text_column()
    expires_at: datetime = time_column()


class RateWindow(SQLModel, table=True):
    """The number of requests with a key in its current minute."""

    __tablename__ = "rate_windows"
    # unlogged: a crash of Postgres empties the table, and each key starts a new minute
    __table_args__ = {"prefixes": ["UNLOGGED"], "postgresql_with": {"fillfactor": 50}}

    key_id: str = text_column(primary_key=True)
    started_at: datetime = time_column()
    used: int = Field(sa_column=Column(Integer, nullable=False))


class IdempotentAnswer(SQLModel, table=True):
    """The first response to a request with an `Idempotency-Key`."""

    __tablename__ = "idempotent_answers"
    __table_args__ = (
        Index("idempotent_answers_by_age", "created_at"),
        Index("idempotent_answers_by_subject", "subject", postgresql_where=text("body IS NOT NULL")),
    )

    key_id: str = text_column(primary_key=True)
    idempotency_key: str = text_column(primary_key=True)
    """A keyed digest of the header, because a caller may put personal data into it."""
    fingerprint: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """HMAC-SHA256 of method, path and body. The API rejects the same key with another fingerprint."""
    subject: str | None = text_column(nullable=True)
    """The subject with the data key for ``body``. After an erasure the response can't be decrypted."""
    status: int | None = Field(default=None, sa_column=Column(SmallInteger))
    headers: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB))
    body: bytes | None = personal(Mask.ANSWERED)
    """Deleted if the person refuses an attribute or withdraws a consent: the answer is then made again."""
    created_at: datetime = transaction_time()
