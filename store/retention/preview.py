"""What a run of the retention would do, counted: nothing is changed by it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from models.rules import retention as types
from store.connection import Connection
from store.events import detaching
from store.events.detaching import Standing
from store.retention import purge
from store.retention.periods import Retention
from store.retention.purge import TableScan, TimeRange

Intent = Literal["drop", "delete", "erase"]


@dataclass(frozen=True)
class Part:
    """What would become of one part of a type of data.

    ``rows`` is None where only the owner of the tables can look: of a month that is on its way out already.
    """

    part: str
    action: Intent
    rows: int | None


async def count(connection: Connection, policy: Retention, now: datetime) -> list[Part]:
    """The parts of a type of data that are past its period; none where there is no period."""
    older_than = policy.older_than(now)
    return [] if older_than is None else await _COUNTS[policy.data_type](connection, older_than)


async def _events(connection: Connection, older_than: datetime) -> list[Part]:
    parts = []
    for month in await detaching.begun_before(connection, older_than):
        rows = None
        if month.standing is Standing.ATTACHED:
            rows = await purge.count_events(connection, month.begins, min(month.ends, older_than))
        if rows != 0:
            parts.append(Part(month.name, "drop" if month.ends <= older_than else "delete", rows))
    beside = (purge.EVENT_IDS, purge.SESSIONS, purge.POISON, purge.LETTERS)
    return [*parts, *await _tables(connection, older_than, *beside)]


async def _tables(connection: Connection, older_than: datetime, *tables: TimeRange | TableScan) -> list[Part]:
    counted = [(table.table, await purge.count(connection, table, older_than)) for table in tables]
    return [Part(table, "delete", rows) for table, rows in counted if rows]


def _deletes(*tables: TimeRange | TableScan) -> Callable[[Connection, datetime], Awaitable[list[Part]]]:
    async def counted(connection: Connection, older_than: datetime) -> list[Part]:
        return await _tables(connection, older_than, *tables)

    return counted


async def _profiles(connection: Connection, older_than: datetime) -> list[Part]:
    rows = await purge.dormant_profiles(connection, older_than)
    return [Part("users", "erase", rows)] if rows else []


async def _closed(connection: Connection, older_than: datetime) -> list[Part]:
    rows = await purge.count(connection, purge.CLOSED, older_than)
    return [Part("users", "erase", rows)] if rows else []


async def _audit(connection: Connection, older_than: datetime) -> list[Part]:
    rows = await purge.audit_rows(connection, older_than)
    return [Part("audit_log", "delete", rows)] if rows else []


_COUNTS: Mapping[str, Callable[[Connection, datetime], Awaitable[list[Part]]]] = {
    types.EVENTS: _events,
    types.TRANSACTIONS: _deletes(purge.TRANSACTIONS),
    types.EXECUTION_LOGS: _deletes(purge.INSTANCES),
    types.MESSAGES: _deletes(purge.MESSAGES),
    types.WEBHOOK_DELIVERIES: _deletes(purge.CALLBACKS),
    types.IDEMPOTENCY_ANSWERS: _deletes(purge.ANSWERS),
    types.PROFILES: _profiles,
    types.CLOSED_ACCOUNTS: _closed,
    types.AUDIT: _audit,
}
