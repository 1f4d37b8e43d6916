"""Rollups: what analytics reads. The projector appends deltas, and one compactor folds them into these tables.

No table names a user. `person` is the number of a user's row (:class:`models.tables.people.User`).
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    DateTime,
    Identity,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from models.tables.columns import text_column, time_column


def _packed() -> Any:
    return Field(default=None, sa_column=Column(LargeBinary, nullable=False))


class RollupSeries(SQLModel, table=True):
    """A combination of an event type and the values of its dimensions. Rows are only ever added."""

    __tablename__ = "rollup_series"
    __table_args__ = (UniqueConstraint("event_type", "dimensions", name="rollup_series_values"),)

    series_id: int | None = Field(default=None, sa_column=Column(Integer, Identity(), primary_key=True))
    event_type: str = text_column()
    dimensions: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    """Values by name, with `country` and `device_type`, and `currency` for money. `(other)` stands for all values
    beyond the limit."""


class RollupDelta(SQLModel, table=True):
    """The changes that one transaction makes to the rollups, until the compactor has folded them.

    Packed columns are little-endian arrays (:mod:`models.rules.rollups`).
    """

    __tablename__ = "rollup_deltas"

    delta_id: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(), primary_key=True))
    shard: int = Field(sa_column=Column(SmallInteger, nullable=False))
    events: int = Field(sa_column=Column(Integer, nullable=False))
    received_at: datetime = time_column()
    """The time at which the first of its events was received."""
    series: bytes = _packed()
    """By event: the series, u32."""
    persons: bytes = _packed()
    """By event: the person, u32; 0 for nobody."""
    times: bytes = _packed()
    """By event: microseconds since 1970, i64."""
    flags: bytes = _packed()
    """By event, u8: 1 for activity of the person, 2 to subtract instead of to add."""
    money: bytes = _packed()
    """The places of the events with an amount, u32."""
    amounts: list[Decimal] = Field(sa_column=Column(ARRAY(Numeric), nullable=False))
    """The amounts of these events."""
    sessions: bytes = _packed()
    """Changes of sessions, each three i64: hours since 1970, sessions, microseconds."""


class RollupHour(SQLModel, table=True):
    """Events and amounts of a series in an hour (UTC) of their timestamps."""

    __tablename__ = "rollup_hours"

    series_id: int = Field(sa_column=Column(Integer, primary_key=True))
    hour: datetime = Field(sa_column=Column(DateTime(timezone=True), primary_key=True))
    events: int = Field(sa_column=Column(BigInteger, nullable=False))
    amount: Decimal | None = Field(default=None, sa_column=Column(Numeric))
    """The sum of amounts; NULL for types without."""


class RollupSession(SQLModel, table=True):
    """Sessions by the hour (UTC) of their first event."""

    __tablename__ = "rollup_sessions"

    hour: datetime = Field(sa_column=Column(DateTime(timezone=True), primary_key=True))
    sessions: int = Field(sa_column=Column(BigInteger, nullable=False))
    seconds: Decimal = Field(sa_column=Column(Numeric, nullable=False))
    """The sum of their durations."""


class RollupPeople(SQLModel, table=True):
    """The people with activity on a day (UTC), as a roaring bitmap."""

    __tablename__ = "rollup_people"

    day: date = Field(sa_column=Column(Date, primary_key=True))
    event_type: str = Field(sa_column=Column(Text, primary_key=True))
    """`*` for any."""
    dimension: str = Field(sa_column=Column(Text, primary_key=True))
    """`country` or `device_type`, with `*` alone; else empty."""
    value: str = Field(sa_column=Column(Text, primary_key=True))
    people: bytes = _packed()


class RollupIndex(SQLModel, table=True):
    """Persons, times and series of the events of a type and month (UTC), in runs sorted by person and time."""

    __tablename__ = "rollup_index"

    event_type: str = Field(sa_column=Column(Text, primary_key=True))
    month: date = Field(sa_column=Column(Date, primary_key=True))
    part: int = Field(sa_column=Column(Integer, primary_key=True))
    """The persons of a run: -1 for all, else those whose number divided by 16,384 is this."""
    level: int = Field(sa_column=Column(SmallInteger, primary_key=True))
    """Eight runs of a level are merged into one of the next."""
    run: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(), primary_key=True))
    events: int = Field(sa_column=Column(Integer, nullable=False))
    entries: bytes = _packed()
