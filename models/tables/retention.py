"""Retention periods and runs."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from models.tables.columns import text_column, time_column, transaction_time


class RetentionPeriod(SQLModel, table=True):
    """An admin's change of a data type's period. The other data types have their default."""

    __tablename__ = "retention_periods"

    data_type: str = text_column(primary_key=True)
    days: int | None = Field(default=None, sa_column=Column(Integer))
    """NULL: as long as the account exists."""
    changed_at: datetime = transaction_time()
    changed_by: str = text_column()
    seal: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    """Of the audit log's period: an HMAC with the chain's key, which the runtime role can't make."""


class RetentionRunRow(SQLModel, table=True):
    __tablename__ = "retention_runs"
    __table_args__ = (Index("retention_runs_by_start", "started_at", "run_id"),)

    run_id: str = text_column(primary_key=True)
    requested_by: str = text_column()
    """The id of the API key, or `system:retention` for the daily one."""
    data_types: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    failed: list[str] | None = Field(default=None, sa_column=Column(ARRAY(Text)))
    """The data types whose purge failed; NULL until the run has ended."""
    started_at: datetime = transaction_time()
    finished_at: datetime | None = time_column(nullable=True)


class RetentionResult(SQLModel, table=True):
    """The progress of a run in one part of a data type."""

    __tablename__ = "retention_results"

    run_id: str = text_column(primary_key=True)
    data_type: str = text_column(primary_key=True)
    part: str = text_column(primary_key=True)
    """A table, a partition, or `temporal_histories`."""
    action: str = text_column(primary_key=True)
    """`dropped`, `deleted`, `held` or `due`."""
    rows: int = Field(sa_column=Column(BigInteger, nullable=False))
    older_than: datetime = time_column()
    updated_at: datetime = transaction_time()
