"""Months of the log on their way out: which there are, how far each has come, and the steps to the end.

The steps are DDL, and the runtime role owns no table: they want a connection of the owner's. Each is one
statement in a transaction of its own, since DETACH ... CONCURRENTLY must be, and can't be part of a function.
What is asked, any role may ask.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from models.rules.sharding import SHARDS
from models.temporal.projection import PROJECTOR
from store.connection import Connection
from store.events import redactions

_NAME = re.compile(r"events_(\d{4})_(\d\d)")
_LOCK = 0x7265_7465_6E74  # "retent"
_LONG_SECONDS = 600.0


class Standing(StrEnum):
    """How far a month has come; each is left for the next one."""

    ATTACHED = "attached"
    LEAVING = "leaving"
    """DETACH has begun: nothing new sees it, and what was under way is waited for."""
    DETACHED = "detached"
    """A table of its own that nothing reads or writes."""
    GONE = "gone"


@dataclass(frozen=True)
class Month:
    """A partition of the log, or what was one."""

    name: str
    standing: Standing

    @property
    def begins(self) -> datetime:
        """Its first moment."""
        year, month = self._numbers
        return datetime(year, month, 1, tzinfo=UTC)

    @property
    def ends(self) -> datetime:
        """The first moment of the next one."""
        year, month = self._numbers
        return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)

    @property
    def _numbers(self) -> tuple[int, int]:
        found = _NAME.fullmatch(self.name)
        assert found is not None  # names are matched where they are read
        return int(found[1]), int(found[2])


async def begun_before(connection: Connection, older_than: datetime) -> list[Month]:
    """The months that begin before a time, oldest first, whatever has become of them."""
    return [month for month in await every(connection) if month.begins < older_than]


async def every(connection: Connection) -> list[Month]:
    """All months, oldest first, whatever has become of them."""
    rows = await connection.fetch(
        """SELECT c.relname AS name,
                  CASE WHEN i.inhrelid IS NULL THEN 'detached' WHEN i.inhdetachpending THEN 'leaving'
                       ELSE 'attached' END AS standing
             FROM pg_class c
             LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'public.events'::regclass
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
              AND c.relname ~ '^events_\\d{4}_\\d\\d$'
            ORDER BY c.relname"""
    )
    return [Month(row["name"], Standing(row["standing"])) for row in rows]


async def standing_of(connection: Connection, name: str) -> Standing:
    """How far a month has come by now."""
    return next((month.standing for month in await every(connection) if month.name == name), Standing.GONE)


async def take_turn(connection: Connection) -> bool:
    """Whether this session may take months out now: only one does, until :func:`end_turn` or its end."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK))


async def end_turn(connection: Connection) -> None:
    """Let others."""
    await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


async def detach(connection: Connection, month: Month) -> None:
    """Begin to take a month out, and wait for what was under way in the log; nothing waits for this.

    Raises asyncpg's LockNotAvailableError after the connection's `lock_timeout`: then the month is leaving, and
    :func:`finalize` goes on.
    """
    await connection.execute(f"ALTER TABLE public.events DETACH PARTITION public.{month.name} CONCURRENTLY")


async def finalize(connection: Connection, month: Month) -> None:
    """Go on with a DETACH that was interrupted; raises as :func:`detach` does."""
    await connection.execute(f"ALTER TABLE public.events DETACH PARTITION public.{month.name} FINALIZE")


async def attach(connection: Connection, month: Month) -> None:
    """Put a detached month back, in one transaction with the refusals that could not reach it while it was out.

    The check that DETACH has left on it spares the look at its rows.
    """
    async with connection.transaction():
        await connection.execute(
            f"""ALTER TABLE public.events ATTACH PARTITION public.{month.name}
                FOR VALUES FROM ('{month.begins.isoformat()}') TO ('{month.ends.isoformat()}')"""
        )
        await redactions.ask_again(connection, month.name)


async def has_unread(connection: Connection, month: Month) -> bool:
    """Whether a month has events that the projector hasn't come to; one look into an index for each shard."""
    found: bool = await connection.fetchval(
        f"""SELECT EXISTS (
                SELECT FROM generate_series(0, {SHARDS - 1}) AS shards (shard)
                 CROSS JOIN LATERAL (SELECT generation, xid, sequence FROM public.{month.name} e
                         WHERE e.shard = shards.shard
                         ORDER BY generation DESC, xid DESC, sequence DESC LIMIT 1) AS last
                  LEFT JOIN public.log_cursors c ON c.consumer = '{PROJECTOR}' AND c.shard = shards.shard
                 WHERE c.shard IS NULL
                    OR (last.generation, last.xid, last.sequence) > (c.generation, c.xid, c.sequence))"""
    )
    return found


async def rows_of(connection: Connection, month: Month) -> int:
    """How many events a month has, counted."""
    rows: int = await connection.fetchval(f"SELECT count(*) FROM public.{month.name}", timeout=_LONG_SECONDS)
    return rows


async def drop(connection: Connection, month: Month, and_then: Callable[[Connection], Awaitable[None]]) -> None:
    """Drop a detached month, and write what is to be written of it, in one transaction."""
    async with connection.transaction():
        await connection.execute(f"DROP TABLE public.{month.name}", timeout=_LONG_SECONDS)
        await and_then(connection)


async def estimated_rows(connection: Connection, month: Month) -> int:
    """How many events a month has, as Postgres' statistics have it; any role may ask."""
    rows: int = await connection.fetchval(
        """SELECT greatest(c.reltuples, pg_stat_get_live_tuples(c.oid), 0)::bigint
             FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relname = $1""",
        month.name,
    )
    return rows or 0
