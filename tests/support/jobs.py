"""Single jobs of the system's tables."""

from __future__ import annotations

import asyncio

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from workflows.system.jobs import LOOPS, SCHEDULES, Job, Scheduled


def loop(workflow_id: str) -> Job:
    [found] = [job for job in LOOPS if job.workflow_id == workflow_id]
    return found


def scheduled(workflow_id: str) -> Scheduled:
    [found] = [job for job in SCHEDULES if job.workflow_id == workflow_id]
    return found


async def delete_schedule(system: Client, schedule_id: str) -> None:
    """Delete a schedule, which a worker of another test may have made, and wait until it is gone."""
    handle = system.get_schedule_handle(schedule_id)
    async with asyncio.timeout(30):
        while True:
            try:
                await handle.delete()
                await handle.describe()
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
                return
            await asyncio.sleep(0.05)
