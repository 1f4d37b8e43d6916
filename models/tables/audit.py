"""The audit log and its checkpoints."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, LargeBinary, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from models.tables.columns import text_column, time_column
from models.tables.events import Xid8


def _names() -> Any:
    return Field(sa_column=Column(ARRAY(Text), nullable=False, server_default=text("'{}'")))


class AuditRow(SQLModel, table=True):
    """One access to personal data. The runtime role may only insert and select rows.

    ``xid`` must come before ``occurred_at``. Postgres computes defaults in the order of the columns, so a
    transaction has its id before it reads the row's time. Checkpoints depend on that (:mod:`activities.audit`).
    """

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("audit_log_in_order", "occurred_at", "audit_id"),
        Index("audit_log_of_user", "user_id", "occurred_at", "audit_id"),
        Index("audit_log_of_actor", "actor", "occurred_at", "audit_id"),
        Index("audit_log_of_action", "action", "occurred_at", "audit_id"),
        Index("audit_log_of_subjects", "subjects", postgresql_using="gin"),
    )

    audit_id: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    xid: int = Field(
        default=None, sa_column=Column(Xid8, nullable=False, server_default=text("pg_current_xact_id()"))
    )
    occurred_at: datetime = Field(
        default=None,
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    )
    actor: str = text_column()
    role: str = text_column()
    action: str = text_column()
    user_id: str | None = text_column(nullable=True)
    subjects: list[str] = _names()
    fields: list[str] = _names()
    request_id: str | None = text_column(nullable=True)
    outcome: str = text_column()
    details: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False, server_default=text("'{}'")))


class AuditCheckpoint(SQLModel, table=True):
    """The checkpoint of one hour of the audit log. It stays after the hour's rows have expired.

    The runtime role may only insert and select checkpoints.
    """

    __tablename__ = "audit_checkpoints"

    hour: datetime = Field(default=None, sa_column=Column(DateTime(timezone=True), primary_key=True))
    """The start of the hour, in UTC."""
    rows: int = Field(sa_column=Column(BigInteger, nullable=False))
    digest: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """SHA-256 of the hour's rows in order (:mod:`privacy.audit_chain`)."""
    expires_before: datetime = time_column()
    """Hours that ended before this time may expire. It never decreases along the chain."""
    created_at: datetime = time_column()
    previous: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """The head of the previous checkpoint; 32 zero bytes for the first one."""
    head: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """HMAC-SHA256 of the columns above, with a key that isn't in the database."""
    key_check: str = text_column()
    """Check value of that key: identifies the key without revealing it."""
    permit_digest: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    """SHA-256 of the permit to delete the hour's rows, which only that key makes. Old checkpoints have none."""
