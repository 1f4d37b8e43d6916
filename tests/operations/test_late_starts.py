"""A cancellation that overtakes the start or the replay of its instance."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.testing import WorkflowEnvironment

from activities.outbox import Outbox
from models.vocabulary import InstanceStatus, Purpose
from privacy.sealing import Sealer
from runtime.database import Database
from runtime.settings import Settings
from store import withdrawals
from tests.support.people import Customer
from tests.support.runs import Runs
from worker import startables


async def test_a_start_that_comes_after_its_cancellation_has_no_effect_and_is_cancelled(
    runs: Runs,
    customer: Customer,
    skipping: WorkflowEnvironment,
    database: Database,
    sealer: Sealer,
    worker_settings: Settings,
) -> None:
    new = await runs.stored(customer.user_id)
    async with database.transaction() as connection:
        await connection.execute("UPDATE instances SET purpose = 'marketing'")
        await withdrawals.end_instances(connection, [(customer.user_id, Purpose.MARKETING.value)])
    carrier = Outbox(database, sealer, skipping.client, worker_settings.task_queue, startables())
    task = asyncio.create_task(carrier.carry_on(lambda: True))
    run = runs.at(new.workflow_id, new.instance_id)
    async with asyncio.timeout(20):
        while (await runs.context(run)).end_time is None:
            await asyncio.sleep(0.02)
    late = await runs.begin(new, still=True)
    with pytest.raises(WorkflowFailureError):
        await late.handle.result()
    context = await runs.context(run)
    assert (context.status, context.reason) == (InstanceStatus.CANCELLED, "consent_withdrawn")
    assert context.attempts == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
