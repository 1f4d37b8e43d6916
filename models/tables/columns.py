"""The column types that every table uses."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, DateTime, Text, func
from sqlmodel import Field


def moment(*, nullable: bool = False) -> Any:
    """A point in time: `timestamptz`."""
    return Field(default=None, sa_column=Column(DateTime(timezone=True), nullable=nullable))


def now() -> Any:
    """A point in time that the database fills in."""
    return Field(
        default=None, sa_column=Column(DateTime(timezone=True), nullable=False, server_default=func.now())
    )


def words(*, nullable: bool = False, primary_key: bool = False) -> Any:
    """A string: `text`."""
    return Field(default=None, sa_column=Column(Text, nullable=nullable, primary_key=primary_key))
