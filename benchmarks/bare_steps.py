"""A hand-written workflow of three steps, without the platform: the ceiling of `completions`.

Run as ``python -m benchmarks.bare_steps ADDRESS DATABASE_URL``. Nothing is encrypted, recorded, paused or looked up;
what isn't the platform's is the same: settings of the worker, event loop, collector, and the steps' statement.
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
    from runtime.process import collect_rarely
    from runtime.settings import Settings

QUEUE = "bare-steps"
STAGES = ("active", "at_risk", "onboarding")
MOVE = """UPDATE users SET lifecycle_stage = $2, version = version + 1, updated_at = now()
           WHERE user_id = $1 AND NOT lifecycle_stage_pinned AND lifecycle_stage <> $2"""
"""What `set_stage` does."""
_TIMEOUT = timedelta(seconds=60)
_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200))


@dataclass
class Steps:
    """The activities."""

    pool: asyncpg.Pool[asyncpg.Record]

    @activity.defn
    async def move(self, user_id: str, stage: str) -> str:
        """Change a row; what it gives is the step's result."""
        return await self.pool.execute(MOVE, user_id, stage)


@workflow.defn(name="bare_steps")
class BareSteps:
    """Three steps."""

    @workflow.run
    async def run(self, user_id: str, apart: bool) -> str:
        """One after the other, as ordinary activities or as local ones."""
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
    """Work until killed."""
    settings = Settings()
    client = await Client.connect(address)
    pool = await asyncpg.create_pool(database_url, min_size=0, max_size=settings.database_pool_size)
    collect_rarely(1, 1)  # as the worker does
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
