"""The column types that every table uses."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, DateTime, Text, func
from sqlmodel import Field


def moment(*, nullable: bool = False) -> Any:
    """A point in time: `timestamptz`."""
    return Field(default=None, sa_column=Column(DateTime(timezone=True), nullable=nullable))


def now() -> Any:
    """A point in time that the database fills in: when the transaction began."""
    return _filled_in(func.now())


def as_written() -> Any:
    """A point in time that the database fills in: when the row is written, and its locks have been taken."""
    return _filled_in(func.clock_timestamp())


def as_asked() -> Any:
    """A point in time that the database fills in: when the statement began."""
    return _filled_in(func.statement_timestamp())


def _filled_in(clock: Any) -> Any:
    return Field(default=None, sa_column=Column(DateTime(timezone=True), nullable=False, server_default=clock))


def words(*, nullable: bool = False, primary_key: bool = False) -> Any:
    """A string: `text`."""
    return Field(default=None, sa_column=Column(Text, nullable=nullable, primary_key=primary_key))
