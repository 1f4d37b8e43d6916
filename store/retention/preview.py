"""Counts the rows that a retention run would drop, delete or erase now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from models.rules import retention as types
from store.connection import Connection
from store.events import partitions
from store.events.partitions import PartitionState
from store.retention import expired
from store.retention.periods import Retention

Intent = Literal["drop", "delete", "erase"]

_Count = Callable[[Connection, datetime], Awaitable[int]]
_COUNTS: Mapping[str, tuple[str, Intent, _Count]] = {
    types.TRANSACTIONS: ("transactions", "delete", expired.TRANSACTIONS.count),
    types.EXECUTION_LOGS: ("instances", "delete", expired.INSTANCES.count),
    types.DECISIONS: ("decisions", "delete", expired.DECISIONS.count),
    types.MESSAGES: ("messages", "delete", expired.MESSAGES.count),
    types.WEBHOOK_DELIVERIES: ("callbacks", "delete", expired.CALLBACKS.count),
    types.IDEMPOTENCY_ANSWERS: ("idempotent_answers", "delete", expired.IDEMPOTENT_ANSWERS.count),
    types.PROFILES: ("users", "erase", expired.count_dormant_profiles),
    types.CLOSED_ACCOUNTS: ("users", "erase", expired.CLOSED_ACCOUNTS.count),
    types.AUDIT: ("audit_log", "delete", expired.count_audit_rows),
}
"""Data types with one part: its name, the action of a run, and the function that counts its rows."""


@dataclass(frozen=True)
class Part:
    """The action of a run on one part of a data type.

    ``rows`` is None for a partition that isn't attached: only the tables' owner can count it.
    """

    part: str
    action: Intent
    rows: int | None


async def count(connection: Connection, retention: Retention, now: datetime) -> list[Part]:
    """The parts of a data type that have expired; none without a period."""
    older_than = retention.older_than(now)
    if older_than is None:
        return []
    if retention.data_type == types.EVENTS:
        return await _count_events(connection, older_than)
    name, action, count_rows = _COUNTS[retention.data_type]
    rows = await count_rows(connection, older_than)
    return [Part(name, action, rows)] if rows else []


async def _count_events(connection: Connection, older_than: datetime) -> list[Part]:
    parts = []
    for partition in await partitions.find_before(connection, older_than):
        rows = None
        if partition.state is PartitionState.ATTACHED:
            rows = await expired.count_events(connection, partition.begins, min(partition.ends, older_than))
        if rows != 0:
            parts.append(Part(partition.name, "drop" if partition.ends <= older_than else "delete", rows))
    tables = (expired.EVENT_IDS, expired.SESSIONS, expired.POISON_EVENTS, expired.OUTBOX_ENTRIES)
    counted = [Part(table.name, "delete", await table.count(connection, older_than)) for table in tables]
    return parts + [part for part in counted if part.rows]
