"""A plain Temporal workflow of three steps, without Perennial: the ceiling of `completions`.

Run as ``python -m benchmarks.bare_steps ADDRESS DATABASE_URL``. It encrypts, records and pauses nothing. The rest
is as in Perennial's worker: its settings, the event loop, the garbage collector, and the statement of each step.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import PollerBehaviorAutoscaling, Worker

with workflow.unsafe.imports_passed_through():
    import asyncpg
    import uvloop

    from benchmarks.children import NICENESS, announce
    from runtime.process import collect_garbage_rarely
    from runtime.settings import Settings

QUEUE = "bare-steps"
STAGES = ("active", "at_risk", "onboarding")
MOVE = """UPDATE users SET lifecycle_stage = $2, version = version + 1, updated_at = now()
           WHERE user_id = $1 AND NOT lifecycle_stage_pinned AND lifecycle_stage <> $2"""
"""The update of `set_stage`, which also records an event."""
_TIMEOUT = timedelta(seconds=60)
_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200))


@dataclass
class Steps:
    """The activities, on one pool."""

    pool: asyncpg.Pool[asyncpg.Record]

    @activity.defn
    async def move(self, user_id: str, stage: str) -> str:
        return await self.pool.execute(MOVE, user_id, stage)


@workflow.defn(name="bare_steps")
class BareSteps:
    """Moves a user to three stages; ``apart`` takes ordinary activities, else local ones."""

    @workflow.run
    async def run(self, user_id: str, apart: bool) -> str:
        for stage in STAGES:
            if apart:
                await workflow.execute_activity_method(
                    Steps.move, args=[user_id, stage], start_to_close_timeout=_TIMEOUT, retry_policy=_RETRY
                )
            else:
                await workflow.execute_local_activity_method(
                    Steps.move, args=[user_id, stage], start_to_close_timeout=_TIMEOUT, retry_policy=_RETRY
                )
        return "moved"


async def main(address: str, database_url: str) -> None:
    """Run a worker until killed."""
    settings = Settings()
    client = await Client.connect(address)
    pool = await asyncpg.create_pool(database_url, min_size=0, max_size=settings.database_pool_size)
    collect_garbage_rarely(1, 1)  # as Perennial's worker does
    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=[BareSteps],
        activities=[Steps(pool).move],
        max_cached_workflows=1000,
        max_concurrent_activities=settings.worker_max_activities,
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
        activity_task_poller_behavior=PollerBehaviorAutoscaling(),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
    ):
        announce()
        await asyncio.Event().wait()


if __name__ == "__main__":
    os.nice(NICENESS)
    uvloop.run(main(*sys.argv[1:]))
