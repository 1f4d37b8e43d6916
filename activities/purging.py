"""Batches of a sweep: each a short transaction of its own, under the period as it stands at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from runtime.database import Database
from store.connection import Connection
from store.retention import periods, purge, runs
from store.retention.periods import Retention
from store.retention.runs import Action, Removal

T = TypeVar("T")

PACE = 5.0
"""How long a sweep rests after a batch, in times of what the batch took: it works a sixth of the time at most, and
ingest has the disk and the processors for the rest."""


class RetentionExtendedError(Exception):
    """The period was lengthened or taken away while its sweep was under way: nothing more goes."""


@dataclass(frozen=True)
class Batch:
    """A transaction of a sweep."""

    connection: Connection
    run_id: str
    policy: Retention
    older_than: datetime
    """What the sweep began with, or earlier where the period has been lengthened since."""

    async def record(self, part: str, action: Action, rows: int) -> None:
        """Write what becomes of rows in this transaction, for the run and the audit log."""
        await runs.record(self.connection, self.run_id, self.policy, Removal(part, action, rows, self.older_than))


@dataclass(frozen=True)
class Purging:
    """One type of data in one run."""

    database: Database
    run_id: str
    data_type: str
    older_than: datetime
    """The cutoff when the sweep began; it doesn't move on, so that a sweep comes to an end."""

    async def batch(self, work: Callable[[Batch], Awaitable[T]]) -> T:
        """Do a batch of work in a transaction, then rest. Raises :class:`RetentionExtendedError`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with self.database.transaction() as connection:
            done = await work(await self.opened(connection))
        await asyncio.sleep((loop.time() - began) * PACE)
        return done

    async def opened(self, connection: Connection) -> Batch:
        """A batch in a transaction that has just begun. Raises :class:`RetentionExtendedError`."""
        policy = await periods.find(connection, self.data_type)
        older_than = periods.still_expired(policy, self.older_than)
        if older_than is None:
            raise RetentionExtendedError
        await purge.settings_of_a_batch(connection)
        return Batch(connection, self.run_id, policy, older_than)

    async def until_empty(self, part: str, delete: Callable[[Connection, datetime], Awaitable[int]]) -> None:
        """Delete batches until one finds nothing."""

        async def one(batch: Batch) -> int:
            rows = await delete(batch.connection, batch.older_than)
            await batch.record(part, "deleted", rows)
            return rows

        while await self.batch(one):
            pass

    async def through(
        self, table: str, part: str, delete: Callable[[Connection, datetime, int], Awaitable[int]]
    ) -> None:
        """Delete from each batch of a table's blocks, from the first to what is the last now."""
        async with self.database.connection() as connection:
            blocks = await purge.blocks_of(connection, table)
        for first in range(0, blocks, purge.BLOCKS):

            async def one(batch: Batch, first: int = first) -> None:
                rows = await delete(batch.connection, batch.older_than, first)
                await batch.record(part, "deleted", rows)

            await self.batch(one)

    async def note(self, part: str, action: Action, rows: int) -> None:
        """Write of rows that stay, and why: ``held`` or ``due``."""

        async def one(batch: Batch) -> None:
            await batch.record(part, action, rows)

        await self.batch(one)
