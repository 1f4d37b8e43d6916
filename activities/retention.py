"""The activities of a retention run, which purges expired data, one data type after the other.

Temporal may attempt each activity any number of times, on any worker. The activity reads the remaining work from
Postgres. Each batch commits its deletions, counts and audit rows in one transaction. :mod:`activities.partitions`
describes how partitions are dropped.

Events. A batch deletes events and their ids, and counts both. After a crash, the next attempt deletes the
remaining events and counts no event twice. Sessions, poison events and outbox entries are purged only if no
expired event remains. Otherwise the projector could project such an event later, and count its deleted session a
second time. The purge doesn't change the totals in profiles.

Instances. If the worker dies:

1. before it requests a deletion from Temporal: nothing has happened.
2. after Temporal deleted some histories, before the worker deleted the instances' rows: the next attempt finds the
   rows. Temporal answers that the histories don't exist, and the worker deletes the rows.
3. after the transaction that deletes the rows: that transaction contains the count and the audit row too.

So an instance's row remains until Temporal has deleted all its histories. Only the attempt that deletes the rows
counts the histories, and it counts those that it finds. After a crash at 2 that count is too low.
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
from privacy.audit_chain import CheckpointKey
from runtime.database import UNREACHABLE, Database
from runtime.histories import Histories
from runtime.temporal import keep_histories
from store.audit import checkpoints
from store.connection import Connection
from store.events import partitions
from store.events.partitions import Partition, PartitionState, month_start
from store.instances import transitions
from store.retention import expired, periods, runs
from store.retention.expired import EndedInstance, IndexScan, TableScan
from store.retention.runs import Action, Batch, RetentionExtendedError
from store.rollups import forgetting

logger = logging.getLogger("perennial.retention")

T = TypeVar("T")

INSTANCES_AT_ONCE = 50
REST_FACTOR = 5.0
"""The pause after a batch, as a multiple of the batch's duration. A purge uses disk and processors for a sixth of
the time, so that ingest gets the rest."""


class Retention:
    def __init__(self, database: Database, owner: Database | None, client: Client, key: CheckpointKey) -> None:
        self._database = database
        self._client = client
        self._histories = Histories(client)
        self._purges: Mapping[str, Callable[[Purge], Awaitable[None]]] = {
            types.EVENTS: EventPurge(database, owner).run,
            types.TRANSACTIONS: partial(Purge.scan, table=expired.TRANSACTIONS),
            types.EXECUTION_LOGS: self._purge_execution_logs,
            types.DECISIONS: partial(Purge.delete_by_index, table=expired.DECISIONS),
            types.MESSAGES: partial(Purge.delete_by_index, table=expired.MESSAGES),
            types.WEBHOOK_DELIVERIES: partial(Purge.scan, table=expired.CALLBACKS),
            types.IDEMPOTENCY_ANSWERS: partial(Purge.delete_by_index, table=expired.IDEMPOTENT_ANSWERS),
            types.PROFILES: partial(_record_due, count=expired.count_dormant_profiles),
            types.CLOSED_ACCOUNTS: partial(_record_due, count=expired.CLOSED_ACCOUNTS.count),
            types.AUDIT: partial(_purge_audit, key=key),
        }

    @activity.defn(name="retention.begin")
    async def begin(self, run: RetentionRun) -> RetentionPlan:
        """Insert the run, and set how long Temporal keeps histories. Returns the data types to purge."""
        wanted = DATA_TYPES if run.data_types is None else run.data_types
        plan = RetentionPlan(data_types=[name for name in DATA_TYPES if name in wanted])
        async with self._database.transaction() as connection:
            await runs.begin(connection, run.run_id, run.requested_by, plan.data_types)
        await set_history_retention(self._client, self._database)
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
        """Store the run's end and the data types whose purge failed."""
        async with self._database.transaction() as connection:
            days = await periods.days_of(connection, types.AUDIT)
            await runs.finish(connection, outcome.run_id, outcome.failed, days)
        if outcome.failed:
            logger.error("the retention run failed for some data types", extra={"data_types": outcome.failed})

    async def _purge_execution_logs(self, purge: Purge) -> None:
        """Delete the histories of expired instances, then the instances' rows."""
        after: tuple[datetime, str] | None = None
        held = 0
        while True:
            # Read the period again before each page, because histories can't be restored.
            async with self._database.transaction() as connection:
                older_than = (await purge.begin_batch(connection)).older_than
                found = await expired.ended_instances(connection, older_than, after, INSTANCES_AT_ONCE)
            if not found:
                break
            # Rows of held instances remain, so the next page begins after them.
            after = found[-1].end_time, found[-1].instance_id
            held += await self._delete_instances(purge, found)
        if held:
            await purge.record("instances", "held", held)

    async def _delete_instances(self, purge: Purge, found: Sequence[EndedInstance]) -> int:
        """Delete instances. Returns the number of those that Temporal still has, which are kept."""
        counts = await asyncio.gather(
            *(self._histories.delete(temporal_workflow_id(each.workflow_id, each.instance_id)) for each in found)
        )
        # The count is None if a run is still open, or if Temporal hasn't deleted a history in time.
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
    """The cutoff at the purge's start. If the period is extended meanwhile, batches use an earlier one."""

    async def batch(self, work: Callable[[Batch], Awaitable[T]]) -> T:
        """Call ``work`` in its own transaction, then pause. Raises :class:`RetentionExtendedError`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with self.database.transaction() as connection:
            done = await work(await self.begin_batch(connection))
        await asyncio.sleep((loop.time() - began) * REST_FACTOR)
        return done

    async def begin_batch(self, connection: Connection) -> Batch:
        """Begin a batch in the caller's transaction. Raises :class:`RetentionExtendedError`."""
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
        """Delete the expired rows of a table, block by block. Blocks that are added meanwhile are not scanned."""
        async with self.database.connection() as connection:
            blocks = await expired.blocks_of(connection, table.name)
        for first in range(0, blocks, expired.BLOCKS):

            async def delete(batch: Batch, first: int = first) -> None:
                rows = await table.delete(batch.connection, batch.older_than, first)
                await batch.record(table.name, "deleted", rows)

            await self.batch(delete)

    async def record(self, part: str, action: Action, rows: int) -> None:
        """Record the number of expired rows that this run keeps, as ``held`` or ``due``."""
        await self.batch(lambda batch: batch.record(part, action, rows))


class EventPurge:
    """Purges events. Drops partitions without unexpired events, and deletes expired rows of other partitions.

    ``owner`` connects as the tables' owner. Without ``owner``, the purge can't drop partitions. Instead it deletes
    all their expired rows, and records them as ``deleted``.
    """

    def __init__(self, database: Database, owner: Database | None) -> None:
        self._database = database
        self._dropper = None if owner is None else PartitionDropper(owner)

    async def run(self, purge: Purge) -> None:
        """Purge events, their ids, sessions, poison events and outbox entries. Record how many events are held."""
        await self._attach_unexpired(purge)
        held = [partition for partition in await self._expired(purge) if not await self._remove(purge, partition)]
        await self._delete_ids(purge)
        if not held:
            for table in (expired.SESSIONS, expired.POISON_EVENTS, expired.OUTBOX_ENTRIES):
                await purge.scan(table)
            await purge.batch(_expire_rollups)

    async def _expired(self, purge: Purge) -> list[Partition]:
        async with self._database.connection() as connection:
            return await partitions.find_before(connection, purge.older_than)

    async def _attach_unexpired(self, purge: Purge) -> None:
        """Attach detached partitions again if a longer period applies now and they haven't expired."""
        if self._dropper is None:
            return
        async with self._database.connection() as connection:
            found = await partitions.find_all(connection)
        for partition in found:
            if partition.state is not PartitionState.ATTACHED and partition.ends > purge.older_than:
                await self._dropper.attach(partition, purge.begin_batch)

    async def _remove(self, purge: Purge, partition: Partition) -> bool:
        """Drop a partition or delete its expired rows. Returns False if some rows are held."""
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
        """Delete a partition's expired rows, block by block.

        Keeps events that the projector hasn't read. Returns False if there are any.
        """
        unprojected = 0
        async with self._database.connection() as connection:
            blocks = await expired.blocks_of(connection, partition.name)
        for first in range(0, blocks, expired.BLOCKS):

            async def delete(batch: Batch, first: int = first) -> int:
                end = min(partition.ends, batch.older_than)
                deleted = await expired.delete_events(batch.connection, partition.begins, end, first)
                await batch.record(partition.name, "deleted", deleted.events)
                await batch.record("event_ids", "deleted", deleted.ids)
                return deleted.unprojected

            unprojected += await purge.batch(delete)
        if unprojected:
            await purge.record(partition.name, "held", unprojected)
        return not unprojected

    async def _delete_ids(self, purge: Purge) -> None:
        """Delete the event ids of months whose partition was dropped."""
        start: datetime | None = None
        for partition in await self._expired(purge):
            await _delete_ids_between(purge, start, partition.begins)
            start = partition.ends
        end = month_start(purge.older_than)
        if start is None or start < end:
            await _delete_ids_between(purge, start, end)


async def _expire_rollups(batch: Batch) -> None:
    """Remove persons from the rollups of expired days. Counts stay."""
    for table, rows in (await forgetting.expire(batch.connection, batch.older_than)).items():
        await batch.record(table, "deleted", rows)


async def _delete_ids_between(purge: Purge, start: datetime | None, end: datetime) -> None:
    position = start

    async def delete(batch: Batch) -> int:
        nonlocal position
        ids, reached = await expired.delete_event_ids(batch.connection, position, min(end, batch.older_than))
        await batch.record("event_ids", "deleted", ids)
        position = reached or position
        return ids

    while await purge.batch(delete):
        pass


async def _record_due(purge: Purge, count: Callable[[Connection, datetime], Awaitable[int]]) -> None:
    """Record the number of users who are due for erasure. No purge erases them."""

    async def record(batch: Batch) -> None:
        await batch.record("users", "due", await count(batch.connection, batch.older_than))

    await purge.batch(record)


async def _purge_audit(purge: Purge, key: CheckpointKey) -> None:
    """Delete hours of the audit log, the oldest first, up to the cutoff and the newest checkpoint's limit."""

    async def delete(batch: Batch) -> bool:
        rows = await checkpoints.expire_hour(batch.connection, key, batch.older_than)
        await batch.record("audit_log", "deleted", rows or 0)
        return rows is not None

    while await purge.batch(delete):
        pass


async def set_history_retention(client: Client, database: Database) -> None:
    """Set Temporal's retention of closed histories to the period of execution logs.

    Changes nothing if Postgres is unreachable. Every worker calls this function at its start, and so does every
    retention run. When an admin changes the period, the API sets Temporal's retention. Temporal computes the
    expiry of a history when the run closes. If the period is shortened later, a retention run deletes the history.
    """
    try:
        async with database.connection() as connection:
            days = await periods.days_of(connection, types.EXECUTION_LOGS)
    except UNREACHABLE:
        logger.warning("Postgres does not answer; Temporal's retention is left as it is")
        return
    await keep_histories(client, timedelta(days=days))
