"""The audit log and its checkpoints."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, LargeBinary, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from models.tables.columns import moment, words
from models.tables.events import Xid8


def _names() -> Any:
    return Field(sa_column=Column(ARRAY(Text), nullable=False, server_default=text("'{}'")))


class AuditRow(SQLModel, table=True):
    """One access to personal data. The runtime role may insert and select rows, nothing else.

    Postgres computes defaults in the order of the columns: ``xid`` comes before ``occurred_at``, so that a row's
    transaction has its id before the row's time is read. Checkpoints depend on that (:mod:`activities.audit`).
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
    actor: str = words()
    role: str = words()
    action: str = words()
    user_id: str | None = words(nullable=True)
    subjects: list[str] = _names()
    fields: list[str] = _names()
    request_id: str | None = words(nullable=True)
    outcome: str = words()
    details: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False, server_default=text("'{}'")))


class AuditCheckpoint(SQLModel, table=True):
    """The checkpoint of one hour of the audit log; it stays when the hour's rows have expired.

    The runtime role may insert and select checkpoints, nothing else.
    """

    __tablename__ = "audit_checkpoints"

    hour: datetime = Field(default=None, sa_column=Column(DateTime(timezone=True), primary_key=True))
    """The hour's beginning, in UTC."""
    rows: int = Field(sa_column=Column(BigInteger, nullable=False))
    digest: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """SHA-256 of the hour's rows in their order."""
    expires_before: datetime = moment()
    """Hours that ended before may expire, by the retention at that time. It never decreases along the chain."""
    created_at: datetime = moment()
    previous: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """The head of the checkpoint before; 32 zero bytes for the first one."""
    head: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """HMAC-SHA256 of all of the above, with a key that isn't in the database."""
    key_check: str = words()
    """Check value of that key."""
