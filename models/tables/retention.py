"""Retention periods and runs."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Column, Index, Integer, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from models.tables.columns import moment, now, words


class RetentionPeriod(SQLModel, table=True):
    """How long a data type is kept, once an admin has set it."""

    __tablename__ = "retention_periods"

    data_type: str = words(primary_key=True)
    days: int | None = Field(default=None, sa_column=Column(Integer))
    """None: as long as the account exists."""
    changed_at: datetime = now()
    changed_by: str = words()


class RetentionRunRow(SQLModel, table=True):
    """A retention run."""

    __tablename__ = "retention_runs"
    __table_args__ = (Index("retention_runs_by_start", "started_at", "run_id"),)

    run_id: str = words(primary_key=True)
    requested_by: str = words()
    """The id of the API key, or `system:retention` for the daily one."""
    data_types: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    failed: list[str] | None = Field(default=None, sa_column=Column(ARRAY(Text)))
    """The data types whose purge failed; None until the run has ended."""
    started_at: datetime = now()
    finished_at: datetime | None = moment(nullable=True)


class RetentionResult(SQLModel, table=True):
    """What a run has done with one part of a data type so far."""

    __tablename__ = "retention_results"

    run_id: str = words(primary_key=True)
    data_type: str = words(primary_key=True)
    part: str = words(primary_key=True)
    """A table, a partition, or `temporal_histories`."""
    action: str = words(primary_key=True)
    """`dropped`, `deleted`, `held` or `due`."""
    rows: int = Field(sa_column=Column(BigInteger, nullable=False))
    older_than: datetime = moment()
    updated_at: datetime = now()
