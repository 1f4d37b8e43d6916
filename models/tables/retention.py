"""How long each type of data is kept, and what the runs that enforce it have done."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Column, Index, Integer, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from models.tables.columns import moment, now, words


class RetentionPeriod(SQLModel, table=True):
    """How long a type of data is kept, where it differs from the default."""

    __tablename__ = "retention_periods"

    data_type: str = words(primary_key=True)
    days: int | None = Field(default=None, sa_column=Column(Integer))
    """None: as long as the account lives."""
    changed_at: datetime = now()
    changed_by: str = words()


class RetentionRunRow(SQLModel, table=True):
    """A run of the retention."""

    __tablename__ = "retention_runs"
    __table_args__ = (Index("retention_runs_by_start", "started_at", "run_id"),)

    run_id: str = words(primary_key=True)
    requested_by: str = words()
    """The id of the API key, or `system:retention` for the daily one."""
    data_types: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    failed: list[str] | None = Field(default=None, sa_column=Column(ARRAY(Text)))
    """The types of data of which not all could be done; None until the run has ended."""
    started_at: datetime = now()
    finished_at: datetime | None = moment(nullable=True)


class RetentionResult(SQLModel, table=True):
    """What a run has done with one part of a type of data so far."""

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
