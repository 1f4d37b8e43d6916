"""Whole months of the log, taken out: detached without blocking anybody, then dropped.

A month goes through four standings (:class:`store.events.detaching.Standing`), and each step is one statement that commits
by itself. What a step finds is read from Postgres' catalogue and remembered nowhere else, so that whoever comes
next goes on from where things are. Argument, by the point at which the worker, or Postgres, dies:

1. before DETACH: nothing happened.
2. within DETACH, before its first commit: as 1. After it the month is *leaving*: no new transaction sees it, and
   the statement waits for those that do. A worker that dies leaves a backend that finishes the statement, or the
   month stays leaving (Postgres restarted, `lock_timeout`); the next attempt or run goes on with FINALIZE.
3. between DETACH and DROP: the month is *detached*, a table that nobody reads or writes. The next attempt finds it
   by its name, looks at it as if it had detached it itself, counts and drops it.
4. within the transaction of DROP, count and audit row: all of it or nothing, as 3 or 5. So the audit log has each
   row that went exactly once.
5. after that commit, before the ids are deleted: the month is gone and its ids are left. Ids are deleted for every
   month that isn't there (:meth:`activities.expired_events.ExpiredEvents._ids`), whichever run it was that dropped
   it. Until then a taken id answers `duplicate` for an event that would be refused as expired.

*Events that the projector hasn't come to aren't dropped.* It is asked before DETACH, and again of the detached
month, since what was under way then may have added to it: no more is added afterwards. A month with such events is
put back (ATTACH), and stays for the next run, held.

*Nobody is blocked.* DETACH ... CONCURRENTLY takes locks that inserts and reads don't mind, and holds none while
it waits, nor a transaction id, so that the log's horizon moves on. Where something long is under way (a dump),
it gives up after `lock_timeout` and is tried again for a while, then by the next run. When it comes to DROP, the
table is no partition any more, and no query can have it open. An insert that finds its month gone is judged anew
under the period as it stands (:mod:`api.ingest`).

One session at a time does this, by an advisory lock that ends with it: two workers that both have the activity
for a moment take turns.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from activities.purging import Purging, RetentionExtendedError
from runtime.database import Database
from store.connection import Connection
from store.events import detaching
from store.events.detaching import Month, Standing

logger = logging.getLogger("perennial.retention")

LOCK_TIMEOUT = "5s"
"""Of the owner's connection: how long one DETACH or FINALIZE waits for what is under way."""
WAITS = 12
"""How often a month that can't leave yet is tried in a run."""
AGAIN_SECONDS = 1.0


def owner_database(url: str) -> Database:
    """The owner's connection for this; it connects on use, and is closed when it has been idle for a while."""
    return Database(url, size=2, application="retention", settings={"lock_timeout": LOCK_TIMEOUT})


class ExpiredMonths:
    """Takes whole months out of the log, as the owner of its tables."""

    def __init__(self, owner: Database) -> None:
        self._owner = owner

    async def remove(self, sweeping: Purging, month: Month) -> bool:
        """Take a month out, from wherever it stands; False where it is held."""
        async with self._turn() as connection:
            return await _Removal(sweeping, connection, month).to_the_end()

    async def put_back(self, sweeping: Purging, month: Month) -> None:
        """Put a month back that has begun to leave, and may stay by now: its period has been lengthened."""
        async with self._turn() as connection:
            await _Removal(sweeping, connection, month).back()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[Connection]:
        """A connection of the owner's that nobody else takes months out with. Asked again and again: one who waits
        in a statement holds a snapshot, for which FINALIZE would wait."""
        async with self._owner.session() as connection:
            while not await detaching.take_turn(connection):  # noqa: ASYNC110 - nothing here tells of the lock's end
                await asyncio.sleep(AGAIN_SECONDS)
            try:
                yield connection
            finally:
                if not connection.is_closed():
                    await detaching.end_turn(connection)


class _Removal:
    """One month on its way out."""

    def __init__(self, sweeping: Purging, connection: Connection, month: Month) -> None:
        self._sweeping = sweeping
        self._connection = connection
        self._month = month
        self._waits = 0

    async def to_the_end(self) -> bool:
        """Step until the month is gone, or held."""
        while (standing := await detaching.standing_of(self._connection, self._month.name)) is not Standing.GONE:
            if standing is Standing.DETACHED:
                return await self._end()
            if standing is Standing.ATTACHED and not await self._may_leave():
                return False
            if not await self._leave(standing):
                await self._hold("something long is under way in the database")
                return False
        return True

    async def back(self) -> None:
        """Attach the month again; one that can't end its leaving yet is left for the next run."""
        while (standing := await detaching.standing_of(self._connection, self._month.name)) is Standing.LEAVING:
            if not await self._leave(standing):
                return
        if standing is Standing.DETACHED:
            await detaching.attach(self._connection, self._month)

    async def _may_leave(self) -> bool:
        await self._still_expired()
        if await detaching.has_unread(self._connection, self._month):
            await self._hold("the projector has not come to all of its events")
            return False
        return True

    async def _leave(self, standing: Standing) -> bool:
        """Detach, or go on with it; False once it has been tried often enough."""
        step = detaching.detach if standing is Standing.ATTACHED else detaching.finalize
        try:
            await step(self._connection, self._month)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            self._waits += 1
            await asyncio.sleep(AGAIN_SECONDS)
        return self._waits < WAITS

    async def _end(self) -> bool:
        """Drop the detached month, or put it back where it may not go after all."""
        try:
            await self._still_expired()
        except RetentionExtendedError:
            await detaching.attach(self._connection, self._month)
            raise
        if await detaching.has_unread(self._connection, self._month):
            await detaching.attach(self._connection, self._month)
            await self._hold("the projector has not come to all of its events")
            return False
        rows = await detaching.rows_of(self._connection, self._month)

        async def record(connection: Connection) -> None:
            batch = await self._sweeping.opened(connection)
            await batch.record(self._month.name, "dropped", rows)

        await detaching.drop(self._connection, self._month, record)
        logger.info("a month of events was dropped", extra={"partition": self._month.name, "rows": rows})
        return True

    async def _still_expired(self) -> None:
        """Raise :class:`RetentionExtendedError` where the month isn't past the period any more."""
        async with self._connection.transaction():
            batch = await self._sweeping.opened(self._connection)
        if self._month.ends > batch.older_than:
            raise RetentionExtendedError

    async def _hold(self, why: str) -> None:
        rows = await detaching.rows_of(self._connection, self._month)
        logger.warning("a month stays past its period", extra={"partition": self._month.name, "reason": why})
        await self._sweeping.note(self._month.name, "held", rows)
