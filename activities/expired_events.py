"""Events past their period, and what goes with them.

Whole months are dropped where the worker has a connection of the tables' owner
(:mod:`activities.expired_months`); the part of a month, and without such a connection whole months too, is
deleted in batches of its blocks. A batch's deleted rows, their ids, the count and the audit row are one
transaction: whoever dies, the rest is found again by the next attempt, and nothing is counted twice.

What goes with events: their ids, in the same transaction or, for a month that was dropped, afterwards; the
sessions whose last event is past the period; events that were set aside, and letters that nobody could take.
These go only once no event of their time is left, so that none that is still to be projected opens a session
which was counted already. Totals on profiles stay, since they are the profile's.
"""

from __future__ import annotations

import logging
from datetime import datetime

from activities.expired_months import ExpiredMonths
from activities.purging import Batch, Purging
from runtime.database import Database
from store.events import detaching
from store.events.detaching import Month, Standing
from store.events.partitions import month_start
from store.retention import purge
from store.retention.purge import TableScan

logger = logging.getLogger("perennial.retention")

_BESIDE = (purge.SESSIONS, purge.POISON, purge.LETTERS)


class ExpiredEvents:
    """Removes events. Without the owner's connection months are emptied instead of dropped, and said to be."""

    def __init__(self, database: Database, owner: Database | None) -> None:
        self._database = database
        self._months = None if owner is None else ExpiredMonths(owner)

    async def remove(self, sweeping: Purging) -> None:
        """Remove what is past the period; what has to stay for now is noted as held."""
        await self._put_back(sweeping)
        async with self._database.connection() as connection:
            begun = await detaching.begun_before(connection, sweeping.older_than)
        held = [month for month in begun if not await self._remove_month(sweeping, month)]
        await self._ids(sweeping)
        if not held:
            for table in _BESIDE:
                await by_place(sweeping, table)

    async def _put_back(self, sweeping: Purging) -> None:
        """Put months back that have begun to leave under a shorter period, and aren't past the present one."""
        if self._months is None:
            return
        async with self._database.connection() as connection:
            every = await detaching.every(connection)
        for month in every:
            if month.standing is not Standing.ATTACHED and month.ends > sweeping.older_than:
                await self._months.put_back(sweeping, month)

    async def _remove_month(self, sweeping: Purging, month: Month) -> bool:
        """Remove a month, or its expired part; False where some of it is held."""
        if self._months is not None and month.ends <= sweeping.older_than:
            return await self._months.remove(sweeping, month)
        if month.standing is Standing.ATTACHED:
            return await _empty(sweeping, month)
        logger.warning(
            "a month that is being taken out needs the owner's connection: PERENNIAL_MIGRATION_DATABASE_URL",
            extra={"partition": month.name},
        )
        async with self._database.connection() as connection:
            rows = await detaching.estimated_rows(connection, month)
        await sweeping.note(month.name, "held", rows)
        return False

    async def _ids(self, sweeping: Purging) -> None:
        """Delete the ids of months that aren't there: their events have been dropped."""
        async with self._database.connection() as connection:
            there = await detaching.begun_before(connection, sweeping.older_than)
        begins: datetime | None = None
        for month in there:
            await _ids_between(sweeping, begins, month.begins)
            begins = month.ends
        ends = month_start(sweeping.older_than)
        if begins is None or begins < ends:
            await _ids_between(sweeping, begins, ends)


async def by_place(sweeping: Purging, table: TableScan) -> None:
    """Delete the expired rows of a table to which no index leads."""
    await sweeping.through(
        table.table,
        table.table,
        lambda connection, older_than, first: purge.delete_by_place(connection, table, older_than, first),
    )


async def _empty(sweeping: Purging, month: Month) -> bool:
    unread = 0

    async with sweeping.database.connection() as connection:
        blocks = await purge.blocks_of(connection, month.name)
    for first in range(0, blocks, purge.BLOCKS):

        async def one(batch: Batch, first: int = first) -> int:
            ends = min(month.ends, batch.older_than)
            done = await purge.delete_events(batch.connection, month.begins, ends, first)
            await batch.record(month.name, "deleted", done.deleted)
            await batch.record("event_ids", "deleted", done.ids)
            return done.unread

        unread += await sweeping.batch(one)
    if unread:
        await sweeping.note(month.name, "held", unread)
    return not unread


async def _ids_between(sweeping: Purging, begins: datetime | None, ends: datetime) -> None:
    """Delete ids of events between two times, oldest first."""
    position = begins

    async def one(batch: Batch) -> int:
        nonlocal position
        rows, reached = await purge.delete_ids(batch.connection, position, min(ends, batch.older_than))
        await batch.record("event_ids", "deleted", rows)
        position = reached or position
        return rows

    while await sweeping.batch(one):
        pass
