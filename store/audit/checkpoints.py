"""Checkpoints of the audit log: one per hour, chained by their heads.

An hour is identified by its first instant, in UTC. It is closed once no transaction can add a row to it;
:mod:`activities.audit` has the argument.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Text, bindparam, cast, func
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.tables.audit import AuditCheckpoint, AuditRow
from privacy.audit_chain import GENESIS, Checkpoint, CheckpointKey, HourDigest, UnsignedCheckpoint
from store.connection import Connection
from store.retention import periods
from store.statements import filtered, parameters, select, sql, statement

logger = logging.getLogger("perennial.audit")

HOUR = timedelta(hours=1)
_PREFETCH = 1000
_NAMES = tuple(AuditCheckpoint.model_fields)

_hour = col(AuditCheckpoint.hour)
_checkpoints = select(*(getattr(AuditCheckpoint, name) for name in _NAMES))
_INSERT = statement(insert(AuditCheckpoint).values(parameters(*_NAMES)))
# A checkpoint in the future is forged: verification finds it, and the chain continues before it.
_IS_PAST = _hour <= func.now()
_LAST = statement(_checkpoints.where(_IS_PAST).order_by(_hour.desc()).limit(1))
_PAGE = filtered(
    _checkpoints.order_by(_hour).limit(bindparam("limit")),
    after=_hour > bindparam("after"),
)
_HAS = statement(select(_hour).where(_hour == bindparam("hour"), col(AuditCheckpoint.head) == bindparam("head")))
_NEXT_HOUR = statement(
    select(
        func.coalesce(
            select(func.max(_hour) + HOUR).where(_IS_PAST).scalar_subquery(),
            select(func.date_trunc("hour", func.min(AuditRow.occurred_at), "UTC")).scalar_subquery(),
        )
    )
)
_OLDEST_ROW = filtered(
    select(func.min(AuditRow.occurred_at)), since=col(AuditRow.occurred_at) >= bindparam("since")
)
# The digest covers a row as this statement returns it: every column in its order, details as Postgres writes them.
_CANONICAL_ROWS = statement(
    select(
        *(col(AuditRow.audit_id), col(AuditRow.xid), col(AuditRow.occurred_at), col(AuditRow.actor)),
        *(col(AuditRow.role), col(AuditRow.action), col(AuditRow.user_id), col(AuditRow.subjects)),
        *(col(AuditRow.fields), col(AuditRow.request_id), col(AuditRow.outcome), cast(AuditRow.details, Text)),
    )
    .where(col(AuditRow.occurred_at) >= bindparam("begins"), col(AuditRow.occurred_at) < bindparam("ends"))
    .order_by(col(AuditRow.occurred_at), col(AuditRow.audit_id))
)
# SQL text: the clock, transaction ids, snapshots, and a function of the owner's.
_CLOCK = sql("SELECT clock_timestamp()")
_TRANSACTION_ID = sql("SELECT pg_current_xact_id()")
_EXPIRE = sql("SELECT expired_hour, expired_rows FROM expire_audit_hour(:permit)")
_HORIZON = sql("SELECT pg_snapshot_xmin(pg_current_snapshot())")


@dataclass(frozen=True)
class DueHour:
    """An hour that has ended. A snapshot sees all its rows once every transaction below ``barrier`` has ended."""

    hour: datetime
    barrier: int


async def last(connection: Connection) -> Checkpoint | None:
    row = await _LAST.fetchrow(connection)
    return None if row is None else Checkpoint(**row)


async def page(connection: Connection, *, after: datetime | None, limit: int) -> list[Checkpoint]:
    """Checkpoints in chain order, after an hour."""
    return [Checkpoint(**row) for row in await _PAGE.fetch(connection, after=after, limit=limit)]


async def due(connection: Connection, grace: timedelta) -> DueHour | None:
    """The next hour to checkpoint, if it ended at least ``grace`` ago by Postgres' clock.

    The chain has no gaps: the next hour follows the last checkpoint's hour, even if it has no rows. The first hour
    is that of the oldest row. Call this in its own transaction, whose id becomes the barrier.
    """
    hour = await _next_hour(connection)
    if hour is None or not await _ended_before(connection, hour, grace):
        return None
    # Take the id only after the clock has passed the hour's end: see activities/audit.py.
    barrier = await _TRANSACTION_ID.fetchval(connection)
    return DueHour(hour, barrier)


async def _next_hour(connection: Connection) -> datetime | None:
    hour: datetime | None = await _NEXT_HOUR.fetchval(connection)
    return hour


async def _ended_before(connection: Connection, hour: datetime, ago: timedelta) -> bool:
    """Whether an hour ended at least ``ago`` before Postgres' clock."""
    now: datetime = await _CLOCK.fetchval(connection)
    return hour + HOUR + ago <= now


async def is_closed(connection: Connection, due: DueHour) -> bool:
    """Whether this snapshot sees the end of every transaction that may have added a row to the hour."""
    horizon: int = await _HORIZON.fetchval(connection)
    return horizon >= due.barrier


async def digest(connection: Connection, hour: datetime) -> HourDigest:
    """The digest of an hour's rows. It reads through a cursor, which needs a transaction."""
    taken = HourDigest()
    async for row in _CANONICAL_ROWS.cursor(connection, _PREFETCH, begins=hour, ends=hour + HOUR):
        taken.add(row)
    return taken


async def checkpoint(connection: Connection, key: CheckpointKey, due: DueHour) -> Checkpoint:
    """Checkpoint a closed hour, in the snapshot in which :func:`is_closed` returned True.

    Raises UniqueViolationError if another worker has checkpointed the hour.
    """
    before = await last(connection)
    # A row of an earlier hour may have been committed since due(): the chain then begins with that hour.
    hour = due.hour if before else min(due.hour, await _next_hour(connection) or due.hour)
    taken = await digest(connection, hour)
    now: datetime = await _CLOCK.fetchval(connection)
    expires_before = now - timedelta(days=await periods.audit_days(connection, key))
    made = key.checkpoint(
        UnsignedCheckpoint(
            hour=hour,
            rows=taken.rows,
            digest=taken.value(),
            # Never earlier than before: a longer period must not invalidate hours that have expired already.
            expires_before=max(expires_before, before.expires_before) if before else expires_before,
            created_at=now,
            previous=before.head if before else GENESIS,
        )
    )
    await _INSERT.execute(connection, **vars(made))
    return made


async def has(connection: Connection, hour: datetime, head: bytes) -> bool:
    return await _HAS.fetchval(connection, hour=hour, head=head) is not None


async def oldest_row(connection: Connection, since: datetime | None = None) -> datetime | None:
    """The time of the oldest row, or of the oldest row since a time; None without rows."""
    [row] = await _OLDEST_ROW.fetch(connection, since=since)
    oldest: datetime | None = row[0]
    return oldest


async def expire_hour(connection: Connection, key: CheckpointKey, older_than: datetime) -> int | None:
    """Delete the rows of the oldest hour; returns their number, or None if that hour must stay.

    It may go if it ended before ``older_than`` and the newest checkpoint, which the key has made, lets it expire.
    Postgres checks the key's permit for the hour, and that it is at least 30 days old.
    """
    oldest, newest = await oldest_row(connection), await last(connection)
    if oldest is None or newest is None:
        return None
    if not key.fits(newest):
        logger.error("the newest audit checkpoint is forged", extra={"hour": newest.hour.isoformat()})
        return None
    hour = _hour_of(oldest)
    if hour + HOUR > min(older_than, newest.expires_before):
        return None
    row = await _EXPIRE.fetchrow(connection, permit=key.permit(hour))
    return None if row is None or row["expired_hour"] is None else row["expired_rows"]


def _hour_of(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


async def is_overdue(connection: Connection, time: datetime, patience: timedelta) -> bool:
    """Whether the hour of a time ended at least ``patience`` ago, by Postgres' clock."""
    return await _ended_before(connection, _hour_of(time), patience)


async def is_behind(connection: Connection, patience: timedelta) -> bool:
    """Whether the next hour to checkpoint ended at least ``patience`` ago."""
    hour = await _next_hour(connection)
    return hour is not None and await _ended_before(connection, hour, patience)
