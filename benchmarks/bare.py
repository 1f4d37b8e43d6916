"""A plain Temporal workflow without Perennial: the ceiling of `onboarding`.

Run as ``python -m benchmarks.bare ADDRESS``.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import PollerBehaviorAutoscaling, Worker

with workflow.unsafe.imports_passed_through():
    from benchmarks.children import announce

QUEUE = "bare"
Script = str
"""The steps of a run in order: `a` an activity, `l` a local activity, `t` a timer."""
_TIMEOUT = timedelta(seconds=60)


@activity.defn
async def nothing() -> None:
    """Do nothing, and so cost no more than an activity must."""


@workflow.defn(name="bare")
class Bare:
    """Runs a script of steps."""

    @workflow.run
    async def run(self, script: Script, wait_seconds: float) -> None:
        for kind in script:
            if kind == "a":
                await workflow.execute_activity(nothing, start_to_close_timeout=_TIMEOUT)
            elif kind == "l":
                await workflow.execute_local_activity(nothing, start_to_close_timeout=_TIMEOUT)
            else:
                await workflow.sleep(wait_seconds)


async def main(address: str) -> None:
    """Run a worker with the pollers of Perennial's worker, until killed."""
    client = await Client.connect(address)
    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=[Bare],
        activities=[nothing],
        max_concurrent_activities=100,
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
        activity_task_poller_behavior=PollerBehaviorAutoscaling(),
    ):
        announce()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
