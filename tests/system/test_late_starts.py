"""A cancellation that overtakes the start or the replay of its instance."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.testing import WorkflowEnvironment

from activities.outbox import Outbox
from checks import progress
from models.vocabulary import InstanceStatus, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from store.instances import replays, transitions
from testing.mail import MailServer
from testing.people import Customer
from testing.runs import Runs
from worker import startables


async def test_a_start_that_reaches_temporal_after_its_cancellation_has_no_effect(
    runs: Runs,
    customer: Customer,
    skipping: WorkflowEnvironment,
    database: Database,
    cipher: Cipher,
    worker_settings: Settings,
) -> None:
    new = await runs.stored(customer.user_id)
    async with database.transaction() as connection:
        await connection.execute("UPDATE instances SET purpose = 'marketing'")
        await transitions.cancel_withdrawn(connection, [(customer.user_id, Purpose.MARKETING.value)])
    outbox = Outbox(database, cipher, skipping.client, skipping.client, worker_settings.task_queue, startables())
    task = asyncio.create_task(outbox.deliver_while(lambda: True))
    run = runs.at(new.workflow_id, new.instance_id)
    async with asyncio.timeout(60):
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


async def test_the_wait_for_a_late_start_is_no_failure_of_the_outbox(
    runs: Runs,
    customer: Customer,
    skipping: WorkflowEnvironment,
    database: Database,
    cipher: Cipher,
    worker_settings: Settings,
) -> None:
    await runs.stored(customer.user_id)
    async with database.transaction() as connection:
        await transitions.cancel_of_closed(connection, [customer.user_id])
    outbox = Outbox(database, cipher, skipping.client, skipping.client, worker_settings.task_queue, startables())
    task = asyncio.create_task(outbox.deliver_while(lambda: True))
    async with database.connection() as connection, asyncio.timeout(60):
        for _ in range(progress.OUTBOX_ATTEMPTS + 1):
            while not await connection.fetchval("SELECT due_at > now() + interval '0.5 s' FROM temporal_outbox"):
                await asyncio.sleep(0.02)
            await connection.execute("UPDATE temporal_outbox SET due_at = now()")
        assert await progress.outbox(connection) is None
        assert await connection.fetchval("SELECT attempts FROM temporal_outbox") == 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_withdrawal_that_overtakes_a_replay_cancels_the_instance_and_the_replay_has_no_effect(
    runs: Runs,
    customer: Customer,
    skipping: WorkflowEnvironment,
    database: Database,
    cipher: Cipher,
    worker_settings: Settings,
    mail: MailServer,
) -> None:
    """Temporal accepts the cancellation of the failed run, which has no effect; the row is cancelled."""
    mail.refuse_recipients = "550 no such mailbox"
    run = await runs.start(customer.user_id, max_attempts=1, still=True)
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    mail.refuse_recipients = None
    async with database.transaction() as connection:
        letter_id = await connection.fetchval("SELECT dead_letter_id FROM dead_letters")
        await replays.request(connection, cipher, letter_id)
    async with database.transaction() as connection:
        await connection.execute("UPDATE instances SET purpose = 'marketing'")
        await connection.execute("UPDATE temporal_outbox SET due_at = now() + interval '3 seconds'")
        await transitions.cancel_withdrawn(connection, [(customer.user_id, Purpose.MARKETING.value)])
    outbox = Outbox(database, cipher, skipping.client, skipping.client, worker_settings.task_queue, startables())
    task = asyncio.create_task(outbox.deliver_while(lambda: True))
    async with database.connection() as connection, asyncio.timeout(60):
        while await connection.fetchval("SELECT count(*) FROM temporal_outbox WHERE kind = 'replay'"):
            await asyncio.sleep(0.05)
    context = await runs.context(run)
    assert (context.status, context.reason) == (InstanceStatus.CANCELLED, "consent_withdrawn")
    assert (await run.handle.describe()).run_id == context.run_id
    assert mail.received == []
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT status FROM dead_letters") == "discarded"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
