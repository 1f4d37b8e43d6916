"""Partitions of the log, one a month: made ahead, and at ingest where one is missing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime

import asyncpg

from models.errors import PartitionDetachingError
from store.connection import Connection


def month_of(moment: datetime) -> date:
    """The first day of a moment's month, in UTC: what a partition goes by."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return date(moment.year, moment.month, 1)


def month_start(moment: datetime) -> datetime:
    """The first moment of a moment's month, in UTC."""
    first = month_of(moment)
    return datetime(first.year, first.month, 1, tzinfo=UTC)


def months_ahead(today: date, count: int) -> list[date]:
    """The month of a day and the ``count`` ones after it."""
    first = today.year * 12 + today.month - 1
    return [date(month // 12, month % 12 + 1, 1) for month in range(first, first + count + 1)]


async def ensure(connection: Connection, month: date) -> bool:
    """Make a month's partition where it is missing; whether it was.

    To be called outside any other transaction: the lock that it takes on the log is held until the end of it.
    Raises :class:`PartitionDetachingError` while retention takes the month out.
    """
    try:
        return bool(await connection.fetchval("SELECT ensure_events_partition($1)", month))
    except asyncpg.ObjectInUseError:
        raise PartitionDetachingError from None


class Partitions:
    """The months whose partitions this process knows to be there."""

    def __init__(self) -> None:
        self._known: set[date] = set()

    async def ensure(self, connection: Connection, months: Iterable[date]) -> None:
        """Make what is missing of some months' partitions, each in a transaction of its own."""
        for month in sorted(set(months) - self._known):
            await ensure(connection, month)
            self._known.add(month)

    def forget(self) -> None:
        """Ask again: one that was there has gone."""
        self._known.clear()
