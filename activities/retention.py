"""The retention run: purges expired data, one data type after the other.

Each activity may be attempted any number of times, on any worker. It reads the remaining work from Postgres, and
each batch commits rows, counts and audit rows together. For dropped partitions see :mod:`activities.partitions`.

Events. A batch deletes rows with their ids, and records both. After a crash the next attempt finds the rest, and
nothing is counted twice. Sessions, poison events and outbox entries are purged only when no event of their time is
left: an event that is projected later would reopen a session that was already counted. Profiles keep their totals.

Instances. If the worker dies:

1. before it asks Temporal to delete: nothing has happened.
2. after some histories are deleted, before the rows of their instances: the next attempt finds the rows, asks
   Temporal again, which answers that there are none, and deletes the rows.
3. after the rows are deleted: their transaction holds count and audit row too.

So every remaining history has a row that leads to it. The attempt that deletes the rows counts the histories that
Temporal still had: after a crash at 2 the count is too low.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from temporalio import activity
from temporalio.client import Client

from activities.loops import heartbeats
from activities.partitions import PartitionDropper
from models.rules import retention as types
from models.rules.retention import DATA_TYPES
from models.temporal.identity import temporal_workflow_id
from models.temporal.system import (
    PurgeRequest,
    RetentionOutcome,
    RetentionPlan,
    RetentionRun,
)
from runtime.database import UNREACHABLE, Database
from runtime.histories import Histories
from runtime.temporal import keep_histories
from store.connection import Connection
from store.events import partitions
from store.events.partitions import Partition, PartitionState, month_start
from store.instances import transitions
from store.retention import expired, periods, runs
from store.retention.expired import EndedInstance, IndexScan, TableScan
from store.retention.runs import Action, Batch, RetentionExtendedError

logger = logging.getLogger("perennial.retention")

T = TypeVar("T")

INSTANCES_AT_ONCE = 50
PACE = 5.0
"""Rest after a batch, as a multiple of its duration. A purge works a sixth of the time, so that ingest has disk
and processors for the rest."""


class Retention:
    def __init__(self, database: Database, owner: Database | None, client: Client) -> None:
        self._database = database
        self._client = client
        self._histories = Histories(client)
        self._purges: Mapping[str, Callable[[Purge], Awaitable[None]]] = {
            types.EVENTS: EventPurge(database, owner).run,
            types.TRANSACTIONS: partial(Purge.scan, table=expired.TRANSACTIONS),
            types.EXECUTION_LOGS: self._purge_execution_logs,
            types.MESSAGES: partial(Purge.delete_by_index, table=expired.MESSAGES),
            types.WEBHOOK_DELIVERIES: partial(Purge.scan, table=expired.CALLBACKS),
            types.IDEMPOTENCY_ANSWERS: partial(Purge.delete_by_index, table=expired.IDEMPOTENT_ANSWERS),
            types.PROFILES: partial(_record_due, count=expired.count_dormant_profiles),
            types.CLOSED_ACCOUNTS: partial(_record_due, count=expired.CLOSED_ACCOUNTS.count),
            types.AUDIT: _purge_audit,
        }

    @activity.defn(name="retention.begin")
    async def begin(self, run: RetentionRun) -> RetentionPlan:
        """Insert the run, and set how long Temporal keeps histories."""
        wanted = DATA_TYPES if run.data_types is None else run.data_types
        plan = RetentionPlan(data_types=[name for name in DATA_TYPES if name in wanted])
        async with self._database.transaction() as connection:
            await runs.begin(connection, run.run_id, run.requested_by, plan.data_types)
        await align_histories(self._client, self._database)
        return plan

    @activity.defn(name="retention.purge")
    async def purge(self, request: PurgeRequest) -> None:
        async with self._database.connection() as connection:
            older_than = (await periods.find(connection, request.data_type)).older_than(datetime.now(UTC))
        if older_than is None:
            return
        purge = Purge(self._database, request.run_id, request.data_type, older_than)
        try:
            async with heartbeats():
                await self._purges[request.data_type](purge)
        except RetentionExtendedError:
            logger.info("the period was extended; the purge ends", extra={"data_type": request.data_type})

    @activity.defn(name="retention.finish")
    async def finish(self, outcome: RetentionOutcome) -> None:
        """Write the run's end, and the data types that failed."""
        async with self._database.transaction() as connection:
            days = await periods.days_of(connection, types.AUDIT)
            await runs.finish(connection, outcome.run_id, outcome.failed, days)
        if outcome.failed:
            logger.error("the retention run failed for some data types", extra={"data_types": outcome.failed})

    async def _purge_execution_logs(self, purge: Purge) -> None:
        """Delete the histories of ended instances, then the instances' rows."""
        after: tuple[datetime, str] | None = None
        held = 0
        while True:
            # The present period decides before Temporal is asked to delete: histories can't be restored.
            async with self._database.transaction() as connection:
                older_than = (await purge.begin_batch(connection)).older_than
                found = await expired.ended_instances(connection, older_than, after, INSTANCES_AT_ONCE)
            if not found:
                break
            # Held instances stay, so the next page begins after them.
            after = found[-1].end_time, found[-1].instance_id
            held += await self._delete_instances(purge, found)
        if held:
            await purge.record("instances", "held", held)

    async def _delete_instances(self, purge: Purge, found: Sequence[EndedInstance]) -> int:
        """Delete instances; return the number of those held, since Temporal still has a run of theirs."""
        counts = await asyncio.gather(
            *(self._histories.delete(temporal_workflow_id(each.workflow_id, each.instance_id)) for each in found)
        )
        # None: a run is still open, or Temporal hasn't deleted one in time.
        gone = [each.instance_id for each, count in zip(found, counts, strict=True) if count is not None]

        async def delete(batch: Batch) -> None:
            deleted = await transitions.delete_ended(batch.connection, gone, batch.older_than)
            for table, rows in deleted.items():
                await batch.record(table, "deleted", rows)
            await batch.record("temporal_histories", "deleted", sum(count or 0 for count in counts))

        await purge.batch(delete)
        return len(found) - len(gone)


@dataclass(frozen=True)
class Purge:
    """The purge of one data type in one run."""

    database: Database
    run_id: str
    data_type: str
    older_than: datetime
    """The cutoff at the purge's start. It is fixed, so that the purge ends."""

    async def batch(self, work: Callable[[Batch], Awaitable[T]]) -> T:
        """Do a batch in its own transaction, then rest. Raises :class:`RetentionExtendedError`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with self.database.transaction() as connection:
            done = await work(await self.begin_batch(connection))
        await asyncio.sleep((loop.time() - began) * PACE)
        return done

    async def begin_batch(self, connection: Connection) -> Batch:
        """Begin a batch in a transaction of the caller's. Raises :class:`RetentionExtendedError`."""
        return await runs.begin_batch(connection, self.run_id, self.data_type, self.older_than)

    async def delete_by_index(self, table: IndexScan) -> None:
        """Delete the expired rows of a table, the oldest first."""

        async def delete(batch: Batch) -> int:
            rows = await table.delete(batch.connection, batch.older_than)
            await batch.record(table.name, "deleted", rows)
            return rows

        while await self.batch(delete):
            pass

    async def scan(self, table: TableScan) -> None:
        """Delete the expired rows of a table, in the blocks that it has now."""
        async with self.database.connection() as connection:
            blocks = await expired.blocks_of(connection, table.name)
        for first in range(0, blocks, expired.BLOCKS):

            async def delete(batch: Batch, first: int = first) -> None:
                rows = await table.delete(batch.connection, batch.older_than, first)
                await batch.record(table.name, "deleted", rows)

            await self.batch(delete)

    async def record(self, part: str, action: Action, rows: int) -> None:
        """Record rows that stay: ``held`` or ``due``."""
        await self.batch(lambda batch: batch.record(part, action, rows))


class EventPurge:
    """Purges events: drops whole partitions, and deletes rows of the others.

    Without the owner's connection it deletes the rows of whole partitions too, and records them as deleted.
    """

    def __init__(self, database: Database, owner: Database | None) -> None:
        self._database = database
        self._dropper = None if owner is None else PartitionDropper(owner)

    async def run(self, purge: Purge) -> None:
        """Purge events and what belongs to them; record what is held."""
        await self._attach_unexpired(purge)
        held = [partition for partition in await self._expired(purge) if not await self._remove(purge, partition)]
        await self._delete_ids(purge)
        if not held:
            for table in (expired.SESSIONS, expired.POISON_EVENTS, expired.OUTBOX_ENTRIES):
                await purge.scan(table)

    async def _expired(self, purge: Purge) -> list[Partition]:
        async with self._database.connection() as connection:
            return await partitions.find_before(connection, purge.older_than)

    async def _attach_unexpired(self, purge: Purge) -> None:
        """Attach partitions that were detached under a shorter period than the present one."""
        if self._dropper is None:
            return
        async with self._database.connection() as connection:
            found = await partitions.find_all(connection)
        for partition in found:
            if partition.state is not PartitionState.ATTACHED and partition.ends > purge.older_than:
                await self._dropper.attach(partition, purge.begin_batch)

    async def _remove(self, purge: Purge, partition: Partition) -> bool:
        """Remove a partition, or its expired rows; False if some of it is held."""
        if self._dropper is not None and partition.ends <= purge.older_than:
            return await self._dropper.drop(partition, purge.begin_batch)
        if partition.state is PartitionState.ATTACHED:
            return await self._delete_events(purge, partition)
        logger.warning(
            "a detached partition needs the owner's connection: set PERENNIAL_MIGRATION_DATABASE_URL",
            extra={"partition": partition.name},
        )
        async with self._database.connection() as connection:
            rows = await partitions.estimate_events(connection, partition)
        await purge.record(partition.name, "held", rows)
        return False

    async def _delete_events(self, purge: Purge, partition: Partition) -> bool:
        """Delete a partition's expired rows, block by block; False if the projector hasn't read some."""
        unprojected = 0
        async with self._database.connection() as connection:
            blocks = await expired.blocks_of(connection, partition.name)
        for first in range(0, blocks, expired.BLOCKS):

            async def delete(batch: Batch, first: int = first) -> int:
                ends = min(partition.ends, batch.older_than)
                deleted = await expired.delete_events(batch.connection, partition.begins, ends, first)
                await batch.record(partition.name, "deleted", deleted.events)
                await batch.record("event_ids", "deleted", deleted.ids)
                return deleted.unprojected

            unprojected += await purge.batch(delete)
        if unprojected:
            await purge.record(partition.name, "held", unprojected)
        return not unprojected

    async def _delete_ids(self, purge: Purge) -> None:
        """Delete the ids of months without a partition: their events were dropped."""
        begins: datetime | None = None
        for partition in await self._expired(purge):
            await _delete_ids_between(purge, begins, partition.begins)
            begins = partition.ends
        ends = month_start(purge.older_than)
        if begins is None or begins < ends:
            await _delete_ids_between(purge, begins, ends)


async def _delete_ids_between(purge: Purge, begins: datetime | None, ends: datetime) -> None:
    position = begins

    async def delete(batch: Batch) -> int:
        nonlocal position
        ids, reached = await expired.delete_event_ids(batch.connection, position, min(ends, batch.older_than))
        await batch.record("event_ids", "deleted", ids)
        position = reached or position
        return ids

    while await purge.batch(delete):
        pass


async def _record_due(purge: Purge, count: Callable[[Connection, datetime], Awaitable[int]]) -> None:
    """Record the number of people due for erasure. Erasure doesn't exist yet; it will start here."""

    async def record(batch: Batch) -> None:
        await batch.record("users", "due", await count(batch.connection, batch.older_than))

    await purge.batch(record)


async def _purge_audit(purge: Purge) -> None:
    """Delete whole hours of the audit log, the oldest first, as far as their checkpoints allow it."""

    async def delete(batch: Batch) -> bool:
        rows = await expired.expire_audit_hour(batch.connection)
        await batch.record("audit_log", "deleted", rows or 0)
        return rows is not None

    while await purge.batch(delete):
        pass


async def align_histories(client: Client, database: Database) -> None:
    """Set Temporal's retention of closed histories to the period of execution logs; skipped without Postgres.

    Workers call it at their start, and so does every retention run. The API sets the retention when an admin
    changes the period. Temporal fixes a history's expiry when its run closes. So after a shortened period, the
    retention run deletes the older histories.
    """
    try:
        async with database.connection() as connection:
            days = await periods.days_of(connection, types.EXECUTION_LOGS)
    except UNREACHABLE:
        logger.warning("Postgres does not answer; Temporal's retention is left as it is")
        return
    await keep_histories(client, timedelta(days=days))
