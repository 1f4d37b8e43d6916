"""Creates the log's partitions ahead of time, and drops those that have expired.

An expired partition goes through the states of :class:`store.events.partitions.PartitionState`. Each step is one
statement that commits by itself. Postgres' catalogue alone has the state, so the next attempt continues from any
step. If the worker or Postgres dies:

1. before DETACH: nothing has happened.
2. within DETACH, before its first commit: as 1. After that commit the partition is *detaching*: new transactions
   don't see it, and DETACH waits for those that do. The backend of a dead worker finishes the statement. If
   Postgres restarted or `lock_timeout` passed, the next attempt or run continues with FINALIZE.
3. between DETACH and DROP: the partition is *detached*, a table that nothing reads or writes. The next attempt
   finds it by its name, repeats the checks, counts its events and drops it.
4. within the transaction of DROP, count and audit row: Postgres commits all (as 5) or nothing (as 3). So the audit
   log counts each deleted event exactly once.
5. after that commit, before the ids are deleted: the partition is dropped, and its ids remain. Each run deletes
   the ids of all months without a partition (:class:`activities.retention.EventPurge`), whichever run dropped it.
   Until then the API answers an event with such an id as `duplicate` instead of `event_expired`.

Events that the projector hasn't read are never dropped. The worker checks before DETACH, and again after it:
transactions that DETACH waited for may have added events. After DETACH no transaction can add any. A partition
with such events is attached again, and held for the next run.

No insert or read waits. The locks of DETACH ... CONCURRENTLY don't conflict with theirs. While DETACH waits, it
holds no lock and no transaction id, so the log's horizon advances. If a long transaction uses the log (a dump),
DETACH gives up after `lock_timeout`. The worker retries for a minute, and then leaves the partition to the next
run. DROP finds a table that is no longer a partition, so no query can have it open. If its partition was detached,
an insert is validated again, under the present period (:mod:`api.ingest`).

An advisory lock lets one session detach at a time, even if two workers run the activity.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TypeAlias

import asyncpg
from temporalio import activity

from models.temporal.system import PartitionsMade
from runtime.database import Database
from store.connection import Connection
from store.events import partitions
from store.events.partitions import Partition, PartitionState
from store.retention.runs import Batch, RetentionExtendedError

logger = logging.getLogger("perennial.retention")

LOCK_TIMEOUT = "5s"
"""Of the owner's connection: how long one DETACH or FINALIZE waits."""
ATTEMPTS = 12
"""Attempts at DETACH and FINALIZE that a run makes for one partition."""
RETRY_SECONDS = 1.0

BeginBatch: TypeAlias = Callable[[Connection], Awaitable[Batch]]
"""Begins a batch of the purge in a transaction; raises :class:`RetentionExtendedError`."""


class Partitions:
    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name="partitions.make_ahead")
    async def make_ahead(self) -> PartitionsMade:
        """Create the missing partitions of this month and the next few."""
        made = []
        for month in partitions.months_ahead(datetime.now(UTC).date(), partitions.MONTHS_AHEAD):
            async with self._database.transaction() as connection:
                if await partitions.ensure(connection, month):
                    made.append(month.isoformat())
        return PartitionsMade(months=made)


def owner_database(url: str) -> Database:
    """Connections of the tables' owner for :class:`PartitionDropper`."""
    return Database(url, size=2, application="retention", settings={"lock_timeout": LOCK_TIMEOUT})


class PartitionDropper:
    """Drops expired partitions, as the owner of the tables."""

    def __init__(self, owner: Database) -> None:
        self._owner = owner

    async def drop(self, partition: Partition, begin_batch: BeginBatch) -> bool:
        """Drop a partition, from any state; False if it is held. Raises :class:`RetentionExtendedError`."""
        async with self._locked() as connection:
            return await _Removal(connection, partition, begin_batch).drop()

    async def attach(self, partition: Partition, begin_batch: BeginBatch) -> None:
        """Attach a partition that was detached, or is detaching, under a shorter period than the present one."""
        async with self._locked() as connection:
            await _Removal(connection, partition, begin_batch).attach()

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[Connection]:
        """A session of the owner that holds the advisory lock."""
        async with self._owner.session() as connection:
            # Polled: a session that waits in pg_advisory_lock() holds a snapshot, for which FINALIZE would wait.
            while not await partitions.try_lock(connection):  # noqa: ASYNC110
                await asyncio.sleep(RETRY_SECONDS)
            try:
                yield connection
            finally:
                # Postgres has released the lock of a closed session.
                if not connection.is_closed():
                    await partitions.unlock(connection)


class _Removal:
    def __init__(self, connection: Connection, partition: Partition, begin_batch: BeginBatch) -> None:
        self._connection = connection
        self._partition = partition
        self._begin_batch = begin_batch
        self._timeouts = 0

    async def drop(self) -> bool:
        while (state := await self._state()) is not PartitionState.DROPPED:
            if state is PartitionState.DETACHED:
                return await self._drop_detached()
            if state is PartitionState.ATTACHED and not await self._may_detach():
                return False
            if not await self._detach(state):
                await self._hold("a long transaction uses the log")
                return False
        return True

    async def attach(self) -> None:
        # ATTACH needs a DETACH that is complete; one that still waits is left to the next run.
        while (state := await self._state()) is PartitionState.DETACHING:
            if not await self._detach(state):
                return
        if state is PartitionState.DETACHED:
            await partitions.attach(self._connection, self._partition)

    async def _state(self) -> PartitionState:
        return await partitions.state_of(self._connection, self._partition.name)

    async def _may_detach(self) -> bool:
        await self._require_expired()
        if await partitions.has_unprojected(self._connection, self._partition):
            await self._hold("the projector has not read all of its events")
            return False
        return True

    async def _detach(self, state: PartitionState) -> bool:
        """Begin or continue a DETACH; False after the last attempt."""
        step = partitions.detach if state is PartitionState.ATTACHED else partitions.finalize_detach
        try:
            await step(self._connection, self._partition)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            self._timeouts += 1
            await asyncio.sleep(RETRY_SECONDS)
        return self._timeouts < ATTEMPTS

    async def _drop_detached(self) -> bool:
        """Drop the detached partition, or attach it again if it has to stay."""
        try:
            await self._require_expired()
        except RetentionExtendedError:
            await partitions.attach(self._connection, self._partition)
            raise
        if await partitions.has_unprojected(self._connection, self._partition):
            await partitions.attach(self._connection, self._partition)
            await self._hold("the projector has not read all of its events")
            return False
        rows = await partitions.count_events(self._connection, self._partition)

        async def record(connection: Connection) -> None:
            batch = await self._begin_batch(connection)
            await batch.record(self._partition.name, "dropped", rows)

        await partitions.drop(self._connection, self._partition, record)
        logger.info("a partition was dropped", extra={"partition": self._partition.name, "rows": rows})
        return True

    async def _require_expired(self) -> None:
        """Raise :class:`RetentionExtendedError` if the partition hasn't expired under the present period."""
        async with self._connection.transaction():
            batch = await self._begin_batch(self._connection)
        if self._partition.ends > batch.older_than:
            raise RetentionExtendedError

    async def _hold(self, reason: str) -> None:
        rows = await partitions.count_events(self._connection, self._partition)
        logger.warning("an expired partition stays", extra={"partition": self._partition.name, "reason": reason})
        async with self._connection.transaction():
            batch = await self._begin_batch(self._connection)
            await batch.record(self._partition.name, "held", rows)
