"""Keeping the log's partitions ahead of time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from temporalio import activity
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
)

from activities import schedules
from models.temporal.partitions import PARTITIONS, PARTITIONS_ID, PartitionsMade
from runtime.database import Database
from store.events import partitions

MONTHS_AHEAD = 3


class Partitions:
    """Makes partitions of the event log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name="partitions.make_ahead")
    async def make_ahead(self) -> PartitionsMade:
        """Make the partitions of this month and the next few, where they are missing."""
        made = []
        for month in partitions.months_ahead(datetime.now(UTC).date(), MONTHS_AHEAD):
            async with self._database.transaction() as connection:
                if await partitions.ensure(connection, month):
                    made.append(month.isoformat())
        return PartitionsMade(months=made)


async def schedule_partitions(client: Client, task_queue: str) -> None:
    """Have partitions made now and every day, on this task queue."""
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(PARTITIONS, id=PARTITIONS_ID, task_queue=task_queue),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(days=1))]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=timedelta(days=7)),
    )
    await schedules.keep(client, PARTITIONS_ID, schedule)
