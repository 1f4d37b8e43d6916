"""Partitions of the event log, one per calendar month in UTC: created, listed, detached and dropped.

Any role may list partitions, and create them through a function of the owner. DETACH, ATTACH and DROP need a
connection as the tables' owner. Each step is a separate statement, since DETACH ... CONCURRENTLY can't run in a
transaction block or a function.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum

import asyncpg

from models.errors import PartitionDetachingError
from models.rules.sharding import SHARDS
from models.temporal.system import PROJECTOR
from store.connection import Connection
from store.events import redactions
from store.statements import sql

MONTHS_AHEAD = 3
"""Partitions are created so many months before their month."""
_NAME = re.compile(r"events_(\d{4})_(\d\d)")
_DETACH_LOCK = 0x7265_7465_6E74  # "retent"
_LONG_SECONDS = 600.0

# SQL text: catalogue, advisory locks, and a function of the owner. The f-strings below contain a partition's name,
# which can't be a parameter.
_ENSURE = sql("SELECT ensure_events_partition(:month)")
_FIND_ALL = sql(
    """SELECT c.relname AS name,
              CASE WHEN i.inhrelid IS NULL THEN 'detached' WHEN i.inhdetachpending THEN 'detaching'
                   ELSE 'attached' END AS state
         FROM pg_class c
         LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = CAST('public.events' AS regclass)
        WHERE c.relnamespace = CAST('public' AS regnamespace) AND c.relkind = 'r'
          AND c.relname ~ '^events_\\d{4}_\\d\\d$'
        ORDER BY c.relname"""
)
_ESTIMATE = sql(
    """SELECT CAST(greatest(c.reltuples, pg_stat_get_live_tuples(c.oid), 0) AS bigint)
         FROM pg_class c WHERE c.relnamespace = CAST('public' AS regnamespace) AND c.relname = :name"""
)
_TRY_LOCK = sql(f"SELECT pg_try_advisory_lock({_DETACH_LOCK})")
_UNLOCK = sql(f"SELECT pg_advisory_unlock({_DETACH_LOCK})")


def month_of(time: datetime) -> date:
    """The first day of the month, in UTC."""
    if time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    return date(time.year, time.month, 1)


def month_start(time: datetime) -> datetime:
    """The beginning of the month, in UTC."""
    first = month_of(time)
    return datetime(first.year, first.month, 1, tzinfo=UTC)


def months_ahead(today: date, count: int) -> list[date]:
    """The first days of this month and of the next ``count`` months."""
    first = today.year * 12 + today.month - 1
    return [date(month // 12, month % 12 + 1, 1) for month in range(first, first + count + 1)]


async def ensure(connection: Connection, month: date) -> bool:
    """Create a month's partition if it is missing; returns whether it was.

    Call it outside other transactions, since a transaction holds the lock on the log until it ends. Raises
    :class:`PartitionDetachingError` while retention detaches the partition.
    """
    try:
        return bool(await _ENSURE.fetchval(connection, month=month))
    except asyncpg.ObjectInUseError:
        raise PartitionDetachingError from None


class KnownPartitions:
    """The months whose partitions this process has seen."""

    def __init__(self) -> None:
        self._months: set[date] = set()

    async def ensure(self, connection: Connection, months: Iterable[date]) -> None:
        """Create missing partitions, each in its own transaction. Raises as :func:`ensure`."""
        for month in sorted(set(months) - self._months):
            await ensure(connection, month)
            self._months.add(month)

    def forget(self) -> None:
        """Have all months checked again, after an insert failed for lack of a partition."""
        self._months.clear()


class PartitionState(StrEnum):
    """The states of a partition. Postgres' catalogue is the only record of them."""

    ATTACHED = "attached"
    DETACHING = "detaching"
    """DETACH has begun. New transactions don't see the partition; DETACH waits for those that do."""
    DETACHED = "detached"
    """A separate table. Ingest and consumers neither read nor write it."""
    DROPPED = "dropped"


@dataclass(frozen=True)
class Partition:
    """A partition of the log, or a former one."""

    name: str
    state: PartitionState

    @property
    def begins(self) -> datetime:
        """Inclusive."""
        year, month = self._numbers
        return datetime(year, month, 1, tzinfo=UTC)

    @property
    def ends(self) -> datetime:
        """Exclusive."""
        year, month = self._numbers
        return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)

    @property
    def _numbers(self) -> tuple[int, int]:
        found = _NAME.fullmatch(self.name)
        assert found is not None  # find_all() selects by this pattern
        return int(found[1]), int(found[2])


async def find_all(connection: Connection) -> list[Partition]:
    """All partitions in any state, oldest first."""
    rows = await _FIND_ALL.fetch(connection)
    return [Partition(row["name"], PartitionState(row["state"])) for row in rows]


async def find_before(connection: Connection, time: datetime) -> list[Partition]:
    """The partitions that begin before a time, in any state, oldest first."""
    return [each for each in await find_all(connection) if each.begins < time]


async def state_of(connection: Connection, name: str) -> PartitionState:
    return next((each.state for each in await find_all(connection) if each.name == name), PartitionState.DROPPED)


async def try_lock(connection: Connection) -> bool:
    """Try to take the lock for detaching partitions; False while another session holds it.

    The session holds the lock until :func:`unlock`, or until the session ends.
    """
    return bool(await _TRY_LOCK.fetchval(connection))


async def unlock(connection: Connection) -> None:
    await _UNLOCK.execute(connection)


async def detach(connection: Connection, partition: Partition) -> None:
    """Detach a partition. Waits for transactions that use the log, and blocks none.

    Raises asyncpg's LockNotAvailableError after the connection's `lock_timeout`. The partition is then detaching,
    and :func:`finalize_detach` continues.
    """
    await connection.execute(f"ALTER TABLE public.events DETACH PARTITION public.{partition.name} CONCURRENTLY")


async def finalize_detach(connection: Connection, partition: Partition) -> None:
    """Continue an interrupted DETACH. Raises as :func:`detach`."""
    await connection.execute(f"ALTER TABLE public.events DETACH PARTITION public.{partition.name} FINALIZE")


async def attach(connection: Connection, partition: Partition) -> None:
    """Attach a detached partition again, and request the redactions that its events have missed."""
    async with connection.transaction():
        # DETACH has added a CHECK constraint with these bounds, so ATTACH doesn't scan the rows.
        await connection.execute(
            f"""ALTER TABLE public.events ATTACH PARTITION public.{partition.name}
                FOR VALUES FROM ('{partition.begins.isoformat()}') TO ('{partition.ends.isoformat()}')"""
        )
        await redactions.request_for_partition(connection, partition.name)


async def has_unprojected(connection: Connection, partition: Partition) -> bool:
    """Whether a partition has events that the projector hasn't read; one index look-up per shard."""
    found: bool = await connection.fetchval(
        f"""SELECT EXISTS (
                SELECT FROM generate_series(0, {SHARDS - 1}) AS shards (shard)
                 CROSS JOIN LATERAL (SELECT generation, xid, sequence FROM public.{partition.name} e
                         WHERE e.shard = shards.shard
                         ORDER BY generation DESC, xid DESC, sequence DESC LIMIT 1) AS last
                  LEFT JOIN public.log_cursors c ON c.consumer = '{PROJECTOR}' AND c.shard = shards.shard
                 WHERE c.shard IS NULL
                    OR (last.generation, last.xid, last.sequence) > (c.generation, c.xid, c.sequence))"""
    )
    return found


async def count_events(connection: Connection, partition: Partition) -> int:
    """Exact, by a scan of the partition."""
    rows: int = await connection.fetchval(f"SELECT count(*) FROM public.{partition.name}", timeout=_LONG_SECONDS)
    return rows


async def estimate_events(connection: Connection, partition: Partition) -> int:
    """An estimate from Postgres' statistics, which any role may read."""
    rows: int | None = await _ESTIMATE.fetchval(connection, name=partition.name)
    return rows or 0


async def drop(
    connection: Connection, partition: Partition, record: Callable[[Connection], Awaitable[None]]
) -> None:
    """Drop a detached partition and call ``record``, in one transaction."""
    async with connection.transaction():
        await connection.execute(f"DROP TABLE public.{partition.name}", timeout=_LONG_SECONDS)
        await record(connection)
