"""Shared column types. Postgres sets the times that have a default."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, DateTime, Text, func
from sqlmodel import Field


def text_column(*, nullable: bool = False, primary_key: bool = False) -> Any:
    return Field(default=None, sa_column=Column(Text, nullable=nullable, primary_key=primary_key))


def time_column(*, nullable: bool = False, primary_key: bool = False) -> Any:
    return Field(
        default=None, sa_column=Column(DateTime(timezone=True), nullable=nullable, primary_key=primary_key)
    )


def transaction_time() -> Any:
    """Default: the start of the transaction."""
    return _default_time(func.now())


def statement_time() -> Any:
    """Default: the start of the statement, which may be later than the transaction's."""
    return _default_time(func.statement_timestamp())


def row_time() -> Any:
    """Default: the time of writing the row, after the statement has acquired its locks."""
    return _default_time(func.clock_timestamp())


def _default_time(clock: Any) -> Any:
    return Field(default=None, sa_column=Column(DateTime(timezone=True), nullable=False, server_default=clock))
