"""The hours of the audit log and their checkpoints: what is due, what an hour holds, and when its rows may go.

An hour is named by its beginning, in UTC. It is closed when no row can come into it any more: that is argued in
:mod:`activities.audit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from privacy.audit_chain import GENESIS, Checkpoint, CheckpointKey, HourDigest, Unsealed
from store.connection import Connection
from store.retention import periods

HOUR = timedelta(hours=1)
_ROWS_A_FETCH = 1000
_DATA_TYPE = "audit"
"""What the log is called among the types of data that have a retention."""
_SEAL = "hour, rows, digest, expires_before, created_at, previous, head, key_check"
_CANONICAL = """
SELECT audit_id, xid, occurred_at, actor, role, action, user_id, subjects, fields, request_id,
       outcome, details::text
  FROM audit_log WHERE occurred_at >= $1 AND occurred_at < $2 ORDER BY occurred_at, audit_id
"""
"""A row's canonical form: every column in its order, the details as Postgres writes them."""


@dataclass(frozen=True)
class DueHour:
    """An hour that is over. Once every transaction below ``barrier`` has ended, all of its rows can be seen."""

    hour: datetime
    barrier: int


async def last(connection: Connection) -> Checkpoint | None:
    """The newest checkpoint; None while there is none."""
    row = await connection.fetchrow(f"SELECT {_SEAL} FROM audit_checkpoints ORDER BY hour DESC LIMIT 1")
    return None if row is None else _checkpoint(row)


async def page(connection: Connection, *, after: datetime | None, limit: int) -> list[Checkpoint]:
    """Up to ``limit`` checkpoints in the order of the chain, after an hour."""
    rows = await connection.fetch(
        f"SELECT {_SEAL} FROM audit_checkpoints WHERE $1::timestamptz IS NULL OR hour > $1 ORDER BY hour LIMIT $2",
        after,
        limit,
    )
    return [_checkpoint(row) for row in rows]


async def due(connection: Connection, grace: timedelta) -> DueHour | None:
    """The next hour to checkpoint, if it ended at least ``grace`` ago by Postgres' clock.

    It is the one after the last checkpoint's, with rows or without, so that the chain has no gaps; the first of all
    is the one of the oldest row. To be called in a transaction of its own: the barrier is that one's id,
    assigned here, after the clock has said that the hour is over.
    """
    hour = await _next(connection)
    if hour is None or not await _is_over(connection, hour, grace):
        return None
    barrier = await connection.fetchval("SELECT pg_current_xact_id()")
    return DueHour(hour, barrier)


async def _next(connection: Connection) -> datetime | None:
    hour: datetime | None = await connection.fetchval(
        """SELECT coalesce((SELECT max(hour) + interval '1 hour' FROM audit_checkpoints),
                           (SELECT date_trunc('hour', min(occurred_at), 'UTC') FROM audit_log))"""
    )
    return hour


async def _is_over(connection: Connection, hour: datetime, grace: timedelta) -> bool:
    """Whether an hour ended at least so long ago, by Postgres' clock."""
    return bool(
        await connection.fetchval(
            "SELECT $1::timestamptz + interval '1 hour' + $2::interval <= clock_timestamp()", hour, grace
        )
    )


async def closed(connection: Connection, due: DueHour) -> bool:
    """Whether every transaction that may have written into the hour has ended, by this snapshot."""
    horizon: int = await connection.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())")
    return horizon >= due.barrier


async def digest(connection: Connection, hour: datetime) -> HourDigest:
    """The digest of an hour's rows, read through a cursor. To be called in a transaction."""
    taken = HourDigest()
    async for row in connection.cursor(_CANONICAL, hour, hour + HOUR, prefetch=_ROWS_A_FETCH):
        taken.add(row)
    return taken


async def checkpoint(connection: Connection, key: CheckpointKey, due: DueHour) -> Checkpoint:
    """Checkpoint an hour that is closed. To be called in the snapshot in which :func:`closed` has said so.

    The first hour of all is looked for again, since a row from before it may have been committed meanwhile.
    Raises UniqueViolationError where another has checkpointed the hour.
    """
    before = await last(connection)
    hour = due.hour if before else min(due.hour, await _next(connection) or due.hour)
    taken = await digest(connection, hour)
    kept_days = await periods.days_of(connection, _DATA_TYPE)
    now = await connection.fetchval("SELECT clock_timestamp()")
    expires_before = now - timedelta(days=kept_days)
    made = key.checkpoint(
        Unsealed(
            hour=hour,
            rows=taken.rows,
            digest=taken.value(),
            expires_before=max(expires_before, before.expires_before) if before else expires_before,
            created_at=now,
            previous=before.head if before else GENESIS,
        )
    )
    await connection.execute(
        f"INSERT INTO audit_checkpoints ({_SEAL}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        made.hour,
        made.rows,
        made.digest,
        made.expires_before,
        made.created_at,
        made.previous,
        made.head,
        made.key_check,
    )
    return made


async def holds(connection: Connection, hour: datetime, head: bytes) -> bool:
    """Whether an hour's checkpoint is there with this head."""
    return bool(
        await connection.fetchval("SELECT true FROM audit_checkpoints WHERE hour = $1 AND head = $2", hour, head)
    )


async def oldest_row(connection: Connection, since: datetime | None = None) -> datetime | None:
    """The time of the oldest row, or of the oldest one since a time; None where there is none."""
    oldest: datetime | None = await connection.fetchval(
        "SELECT min(occurred_at) FROM audit_log WHERE $1::timestamptz IS NULL OR occurred_at >= $1", since
    )
    return oldest


async def overdue(connection: Connection, moment: datetime, patience: timedelta) -> bool:
    """Whether a moment's hour ended longer ago than that, by Postgres' clock."""
    return await _is_over(connection, moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0), patience)


def _checkpoint(row: asyncpg.Record) -> Checkpoint:
    return Checkpoint(**dict(row))
