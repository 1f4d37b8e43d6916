"""Many events of past months, stored as by ingest; and the records of retention runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from activities.partitions import owner_database
from activities.retention import EventPurge, Purge
from models.rules.retention import EVENTS
from models.rules.sharding import SHARDS
from models.temporal.system import PROJECTOR
from runtime.database import Database
from store.connection import Connection
from store.retention import periods

WHOLE = datetime(2025, 3, 1, tzinfo=UTC)
"""The beginning of a month that is older than 365 days as a whole."""
RUN = "a-run"


def boundary(days: int = 365) -> datetime:
    """The time that many days ago."""
    return datetime.now(UTC) - timedelta(days=days)


async def fill(owner: Connection, prefix: str, begins: datetime, ends: datetime, count: int) -> None:
    """Store events evenly between two times of one month, with ids and sessions, in one transaction."""
    await owner.fetchval("SELECT ensure_events_partition($1)", begins.date())
    async with owner.transaction():
        await owner.execute(
            f"""WITH stored AS (
                    INSERT INTO events (event_id, user_id, event_type, timestamp, session_id, shard, generation,
                                        historical, body)
                    SELECT $1 || n, 'u-' || n % 97, 'lesson.finish',
                           $2::timestamptz + ($3::timestamptz - $2::timestamptz) * n / $4, $1 || n,
                           n % {SHARDS}, 1, true, '\\x00'
                      FROM generate_series(0, $4::bigint - 1) AS numbers (n)
                    RETURNING event_id, user_id, session_id, timestamp),
                     ids AS (INSERT INTO event_ids SELECT event_id, 0, timestamp FROM stored)
                INSERT INTO sessions SELECT user_id, session_id, timestamp, timestamp FROM stored""",
            prefix,
            begins,
            ends,
            count,
        )


async def mark_projected(connection: Connection) -> None:
    """Move the projector's cursors past all present events."""
    await connection.execute(
        f"""INSERT INTO log_cursors (consumer, shard, generation, xid, sequence)
            SELECT '{PROJECTOR}', shard, 1, pg_current_xact_id(), 0
              FROM generate_series(0, {SHARDS - 1}) AS shards (shard)
            ON CONFLICT (consumer, shard) DO UPDATE SET xid = excluded.xid"""
    )


async def begin_purge(database: Database, data_type: str = EVENTS, run_id: str = RUN) -> Purge:
    """A purge of a data type that begins now."""
    async with database.connection() as connection:
        older_than = (await periods.find(connection, data_type)).older_than(datetime.now(UTC))
    assert older_than is not None
    return Purge(database, run_id, data_type, older_than)


@asynccontextmanager
async def with_owner(database: Database, owner_url: str) -> AsyncIterator[EventPurge]:
    """An event purge with the owner's connection."""
    connections = owner_database(owner_url)
    await connections.open()
    try:
        yield EventPurge(database, connections)
    finally:
        await connections.close()


async def audited(connection: Connection, data_type: str = EVENTS) -> Counter[tuple[str, str]]:
    """The number of deleted rows in the audit log, by part and action."""
    rows = await connection.fetch(
        """SELECT details->>'part' AS part, details->>'how' AS how, (details->>'rows')::bigint AS rows
             FROM audit_log
            WHERE action = 'retention.delete' AND actor = 'system:retention' AND details->>'data_type' = $1""",
        data_type,
    )
    found: Counter[tuple[str, str]] = Counter()
    for row in rows:
        found[row["part"], row["how"]] += row["rows"]
    return found


async def results(connection: Connection) -> dict[tuple[str, str], int]:
    """The recorded results by part and action, without the empty partitions of other tests."""
    rows = await connection.fetch(
        "SELECT part, action, sum(rows) AS rows FROM retention_results WHERE rows > 0 GROUP BY 1, 2"
    )
    return {(row["part"], row["action"]): int(row["rows"]) for row in rows}


async def partition_states(connection: Connection) -> dict[str, Any]:
    """By partition, whether it is detaching; None for one that is detached."""
    rows = await connection.fetch(
        r"""SELECT c.relname, i.inhdetachpending FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
             WHERE c.relkind = 'r' AND c.relname ~ '^events_\d{4}_\d\d$'"""
    )
    return {row["relname"]: row["inhdetachpending"] for row in rows}


async def count(connection: Connection, table: str, condition: str = "true", *values: Any) -> int:
    return int(await connection.fetchval(f"SELECT count(*) FROM {table} WHERE {condition}", *values))
