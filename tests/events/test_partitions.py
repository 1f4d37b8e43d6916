"""Partitions are there before they are needed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from runtime.database import Database
from runtime.settings import Settings
from store.events.partitions import MONTHS_AHEAD, months_ahead
from tests.support.jobs import scheduled
from worker import keep_schedule


async def test_the_schedule_makes_the_partitions_of_the_months_to_come(
    skipping: WorkflowEnvironment,
    system: Client,
    system_jobs: None,
    database: Database,
    worker_settings: Settings,
) -> None:
    with skipping.with_time_skipping_disabled():
        for _ in range(2):  # the second finds it there
            await keep_schedule(system, worker_settings.task_queue, scheduled("system/partitions"))
    wanted = {f"events_{month:%Y_%m}" for month in months_ahead(datetime.now(UTC).date(), MONTHS_AHEAD)}
    try:
        async with database.connection() as connection, asyncio.timeout(20):
            while not wanted <= {
                row["name"]
                for row in await connection.fetch(
                    "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'events'::regclass"
                )
            }:
                await asyncio.sleep(0.05)
    finally:
        await system.get_schedule_handle("system/partitions").delete()
