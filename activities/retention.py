"""The retention: what is past its period goes, a type of data at a time.

Each type's activity may be begun any number of times, by any worker: what it does next it finds in Postgres, and
each batch leaves rows, counts and audit rows in step (:mod:`activities.expired_events` and
:mod:`activities.expired_months` argue events). For instances, by the point at which the worker dies:

1. before Temporal is asked to delete: nothing happened.
2. after some histories are deleted, before their instances' rows: the rows are still there, and by them the next
   attempt asks Temporal again, which answers that there is nothing; then the rows go.
3. after the rows are deleted: that transaction holds count and audit row too.

So no history is ever left without the row that it is found by. The count of histories is what Temporal still
had at the attempt that deleted the rows; one that was cut short at 2 has deleted more than is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from temporalio import activity
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
)

from activities.expired_events import ExpiredEvents, by_place
from activities.heartbeats import heartbeats
from activities.histories import Histories
from activities.purging import Batch, Purging, RetentionExtendedError
from models.rules import retention as types
from models.rules.retention import DATA_TYPES
from models.temporal.retention import (
    RETENTION,
    RETENTION_SCHEDULE_ID,
    RetentionOutcome,
    RetentionPlan,
    RetentionRun,
    Sweep,
)
from runtime.database import UNREACHABLE, Database
from runtime.temporal import keep_histories
from store.retention import periods, purge, runs
from store.retention.purge import EndedInstance, TimeRange

logger = logging.getLogger("perennial.retention")

INSTANCES_AT_ONCE = 50


class Retention:
    """Enforces the periods of retention."""

    def __init__(self, database: Database, owner: Database | None, client: Client) -> None:
        self._database = database
        self._client = client
        self._histories = Histories(client)
        self._events = ExpiredEvents(database, owner)
        self._sweeps: Mapping[str, Callable[[Purging], Awaitable[None]]] = {
            types.EVENTS: self._events.remove,
            types.TRANSACTIONS: partial(by_place, table=purge.TRANSACTIONS),
            types.EXECUTION_LOGS: self._execution_logs,
            types.MESSAGES: partial(_by_time, table=purge.MESSAGES),
            types.WEBHOOK_DELIVERIES: partial(by_place, table=purge.CALLBACKS),
            types.IDEMPOTENCY_ANSWERS: partial(_by_time, table=purge.ANSWERS),
            types.PROFILES: partial(_due, count=purge.dormant_profiles),
            types.CLOSED_ACCOUNTS: partial(_due, count=partial(purge.count, table=purge.CLOSED)),
            types.AUDIT: _audit,
        }

    @activity.defn(name="retention.begin")
    async def begin(self, run: RetentionRun) -> RetentionPlan:
        """Write that a run begins, and have Temporal keep histories for as long as execution logs are kept."""
        wanted = DATA_TYPES if run.data_types is None else run.data_types
        plan = RetentionPlan(data_types=[name for name in DATA_TYPES if name in wanted])
        async with self._database.transaction() as connection:
            await runs.begin(connection, run.run_id, run.requested_by, plan.data_types)
        await align_histories(self._client, self._database)
        return plan

    @activity.defn(name="retention.sweep")
    async def sweep(self, sweep: Sweep) -> None:
        """Remove what is past the period of one type of data."""
        async with self._database.connection() as connection:
            older_than = (await periods.find(connection, sweep.data_type)).older_than(datetime.now(UTC))
        if older_than is None:
            return
        sweeping = Purging(self._database, sweep.run_id, sweep.data_type, older_than)
        try:
            async with heartbeats():
                await self._sweeps[sweep.data_type](sweeping)
        except RetentionExtendedError:
            logger.info("the period was lengthened; the sweep ends", extra={"data_type": sweep.data_type})

    @activity.defn(name="retention.finish")
    async def finish(self, outcome: RetentionOutcome) -> None:
        """Write that a run has ended, and what it couldn't do."""
        async with self._database.transaction() as connection:
            days = await periods.days_of(connection, types.AUDIT)
            await runs.finish(connection, outcome.run_id, outcome.failed, days)
        if outcome.failed:
            logger.error("the retention could not do all", extra={"data_types": outcome.failed})

    async def _execution_logs(self, sweeping: Purging) -> None:
        """Delete the histories of ended instances, then what is kept of them here; some at a time."""
        after: tuple[datetime, str] | None = None
        held = 0
        while True:
            async with self._database.connection() as connection:
                found = await purge.ended_instances(connection, sweeping.older_than, after, INSTANCES_AT_ONCE)
            if not found:
                break
            after = found[-1].end_time, found[-1].instance_id
            held += await self._delete_instances(sweeping, found)
        if held:
            await sweeping.note("instances", "held", held)

    async def _delete_instances(self, sweeping: Purging, found: Sequence[EndedInstance]) -> int:
        """Delete some instances; how many have to stay, since Temporal still has a run of theirs."""
        await sweeping.batch(_nothing)  # raises PeriodLifted before Temporal is asked for anything
        counts = await asyncio.gather(*(self._histories.delete(each) for each in found))
        gone = [each.instance_id for each, count in zip(found, counts, strict=True) if count is not None]

        async def one(batch: Batch) -> None:
            deleted = await purge.delete_instances(batch.connection, gone, batch.older_than)
            for table, rows in deleted.items():
                await batch.record(table, "deleted", rows)
            await batch.record("temporal_histories", "deleted", sum(count or 0 for count in counts))

        await sweeping.batch(one)
        return len(found) - len(gone)


async def _nothing(batch: Batch) -> None:
    """A batch that only asks whether it may."""


async def _by_time(sweeping: Purging, table: TimeRange) -> None:
    await sweeping.until_empty(
        table.table, lambda connection, older_than: purge.delete_by_time(connection, table, older_than)
    )


async def _due(sweeping: Purging, count: Callable[..., Awaitable[int]]) -> None:
    """Say how many people are to be erased.

    This is the place at which erasure is called for each of them, once it is there. Until then they are counted
    as due, and nothing of them is deleted.
    """

    async def one(batch: Batch) -> None:
        await batch.record("users", "due", await count(batch.connection, older_than=batch.older_than))

    await sweeping.batch(one)


async def _audit(sweeping: Purging) -> None:
    """Delete whole encrypted hours of the audit log, oldest first, as far as its encrypts let them go."""

    async def one(batch: Batch) -> bool:
        rows = await purge.expire_audit_hour(batch.connection)
        await batch.record("audit_log", "deleted", rows or 0)
        return rows is not None

    while await sweeping.batch(one):
        pass


async def align_histories(client: Client, database: Database) -> None:
    """Have Temporal keep histories for as long as execution logs are kept; without Postgres, another time."""
    try:
        async with database.connection() as connection:
            days = await periods.days_of(connection, types.EXECUTION_LOGS)
    except UNREACHABLE:
        logger.warning("Postgres does not answer; Temporal's retention is left as it is")
        return
    await keep_histories(client, timedelta(days=days))


async def schedule_retention(client: Client, task_queue: str) -> None:
    """Have the retention enforced every day, on this task queue; a day that was missed is made up for."""
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(
            RETENTION, RetentionRun(), id=RETENTION_SCHEDULE_ID, task_queue=task_queue
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(days=1), offset=timedelta(hours=2))]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=timedelta(days=2)),
    )
    try:
        await client.create_schedule(RETENTION_SCHEDULE_ID, schedule)
    except ScheduleAlreadyRunningError:
        handle = client.get_schedule_handle(RETENTION_SCHEDULE_ID)
        await handle.update(lambda _: ScheduleUpdate(schedule=schedule))
