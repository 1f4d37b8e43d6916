"""API keys, their rate limits, and the answers kept for idempotent requests."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Index, Integer, LargeBinary, SmallInteger
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from models.personal import Mask, personal
from models.tables.columns import moment, now, words


class ApiKey(SQLModel, table=True):
    """An API key; only its SHA-256 is kept, and a revoked one stays for the record."""

    __tablename__ = "api_keys"
    __table_args__ = (Index("api_keys_by_hash", "hash", unique=True),)

    key_id: str = words(primary_key=True)
    name: str = words()
    role: str = words()
    rate_limit: int | None = Field(default=None, sa_column=Column(Integer))
    hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: datetime = now()
    revoked_at: datetime | None = moment(nullable=True)


class RateWindow(SQLModel, table=True):
    """How many requests a key has made in its present minute.

    Unlogged: after a crash of Postgres every key starts a new minute, which costs nobody anything.
    """

    __tablename__ = "rate_windows"
    __table_args__ = {"prefixes": ["UNLOGGED"], "postgresql_with": {"fillfactor": 50}}

    key_id: str = words(primary_key=True)
    started_at: datetime = moment()
    used: int = Field(sa_column=Column(Integer, nullable=False))


class IdempotentAnswer(SQLModel, table=True):
    """The first answer to a request that carried an `Idempotency-Key`."""

    __tablename__ = "idempotent_answers"
    __table_args__ = (Index("idempotent_answers_by_age", "created_at"),)

    key_id: str = words(primary_key=True)
    idempotency_key: str = words(primary_key=True)
    """A keyed digest of it: the caller may have made it of anything, an address too."""
    fingerprint: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """HMAC-SHA256 of method, path and body: another one under the same key is refused."""
    subject: str | None = words(nullable=True)
    """Whose data key encrypts the answer; it is unreadable once that person is erased."""
    status: int | None = Field(default=None, sa_column=Column(SmallInteger))
    headers: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB))
    body: bytes | None = personal(Mask.ANSWERED)
    created_at: datetime = now()
