"""Workers of one process stop together."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from runtime.process import polling
from runtime.provisioning import in_namespace

GRACE = 1.5
begun: set[str] = set()


@activity.defn
async def stubborn(name: str) -> None:
    begun.add(name)
    await asyncio.sleep(60)


@workflow.defn(name="stubborn", sandboxed=False)
class Stubborn:
    @workflow.run
    async def run(self, name: str) -> None:
        await workflow.execute_activity(stubborn, name, start_to_close_timeout=timedelta(minutes=2))


def build(client: Client, queue: str) -> Worker:
    return Worker(
        client,
        task_queue=queue,
        workflows=[Stubborn],
        activities=[stubborn],
        workflow_runner=UnsandboxedWorkflowRunner(),
        graceful_shutdown_timeout=timedelta(seconds=GRACE),
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


async def test_four_workers_take_one_graceful_time_to_stop(temporal: Client) -> None:
    queues = [f"stopping-{uuid.uuid4().hex}" for _ in range(4)]
    async with polling([build(temporal, queue) for queue in queues]):
        for queue in queues:
            await temporal.start_workflow(Stubborn.run, queue, id=queue, task_queue=queue)
        await until(lambda: set(queues) <= begun)
        began = time.monotonic()
    assert GRACE <= time.monotonic() - began < 2 * GRACE
    for queue in queues:
        await temporal.get_workflow_handle(queue).terminate()


async def test_a_worker_that_fails_for_good_stops_the_others_and_says_why(temporal: Client) -> None:
    lost = build(in_namespace(temporal, "nowhere"), "stopping")
    others = [build(temporal, f"stopping-{uuid.uuid4().hex}") for _ in range(2)]
    with pytest.raises(RuntimeError, match="nowhere"):
        async with asyncio.timeout(30), polling([others[0], lost, others[1]]):
            await asyncio.sleep(60)
    assert not any(worker.is_running for worker in (*others, lost))
