"""Outbox entries for instances that Temporal doesn't know: it is the wrong Temporal, or has lost them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from activities.outbox import Outbox
from activities.reconciler import LOST_AFTER, Reconciler
from models.temporal.execution import RecordedEvent
from models.temporal.system import ReconcileRequest
from models.vocabulary import InstanceStatus, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store import outbox
from store.connection import Connection
from store.instances import waits
from store.outbox import GIVE_UP_AFTER
from store.users import data_keys
from testing.people import Customer
from testing.runs import Run, Runs
from worker import startables

STEP = "wait_for_first_activity"


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    return await Customer.new(database, cipher, Purpose.MARKETING)


@asynccontextmanager
async def delivering(runs: Runs, client: Client) -> AsyncIterator[None]:
    """The outbox of a worker that is connected to this Temporal."""
    delivery = Outbox(runs.database, runs.cipher, client, client, runs.task_queue, startables())
    task = asyncio.create_task(delivery.deliver_while(lambda: True))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def run(runs: Runs, customer: Customer) -> Run:
    """A waiting instance that needs a consent."""
    run = await runs.start(customer.user_id, still=True)
    await runs.until(run, STEP)
    async with runs.database.connection() as connection:
        await connection.execute("UPDATE instances SET purpose = 'marketing'")
    return run


async def _entries(connection: Connection) -> list[str]:
    return [row["kind"] for row in await connection.fetch("SELECT kind FROM temporal_outbox ORDER BY kind")]


async def _enqueue_event(runs: Runs, run: Run, customer: Customer) -> None:
    """Write the entry that the projector writes for an event that the instance waits for."""
    async with runs.database.transaction() as connection:
        key = await data_keys.require(connection, runs.cipher, customer.user_id)
        registered = await waits.of_instance(connection, key, run.instance_id)
        [waiting] = [each for each in registered if each.step == STEP]
        event = RecordedEvent(event_id="e-1", event_type="engagement.search", timestamp=datetime.now(UTC))
        await outbox.write_signals(connection, waiting, customer.user_id, [event])


async def _attempted(runs: Runs) -> None:
    """Wait until each entry has been attempted, or removed."""
    async with runs.database.connection() as connection, asyncio.timeout(60):
        while await connection.fetchval("SELECT count(*) FROM temporal_outbox WHERE attempts = 0"):
            await asyncio.sleep(0.02)


async def _removed(runs: Runs) -> None:
    """Make all entries due, and wait until they are removed."""
    async with runs.database.connection() as connection, asyncio.timeout(60):
        await connection.execute("UPDATE temporal_outbox SET due_at = now()")
        while await _entries(connection):
            await asyncio.sleep(0.02)


async def _ended(runs: Runs, run: Run) -> tuple[InstanceStatus, str | None]:
    async with asyncio.timeout(60):
        while (context := await runs.context(run)).end_time is None:
            await asyncio.sleep(0.02)
    return context.status, context.reason


async def test_a_withdrawal_takes_effect_after_a_worker_was_connected_to_the_wrong_temporal(
    runs: Runs, run: Run, customer: Customer, fresh: Client, skipping: WorkflowEnvironment
) -> None:
    async with delivering(runs, fresh):
        await customer.withdraw(Purpose.MARKETING)
        await _attempted(runs)
    async with runs.database.connection() as connection:
        assert await _entries(connection) == ["cancel"]
    assert (await runs.context(run)).end_time is None
    async with delivering(runs, skipping.client):
        await _removed(runs)
    assert await _ended(runs, run) == (InstanceStatus.CANCELLED, "consent_withdrawn")


async def test_an_event_takes_effect_after_a_worker_was_connected_to_the_wrong_temporal(
    runs: Runs, run: Run, customer: Customer, fresh: Client, skipping: WorkflowEnvironment
) -> None:
    async with delivering(runs, fresh):
        await _enqueue_event(runs, run, customer)
        await _attempted(runs)
    async with runs.database.connection() as connection:
        assert await _entries(connection) == ["signal"]
    async with delivering(runs, skipping.client):
        await _removed(runs)
    assert await _ended(runs, run) == (InstanceStatus.COMPLETED, "activated")


async def test_an_instance_whose_history_is_lost_after_a_withdrawal_ends_as_cancelled(
    runs: Runs, run: Run, customer: Customer, fresh: Client, database: Database, cipher: Cipher
) -> None:
    async with delivering(runs, fresh):
        await _enqueue_event(runs, run, customer)
        await customer.withdraw(Purpose.MARKETING)
        await _attempted(runs)
        async with database.connection() as connection:
            assert await _entries(connection) == ["cancel", "signal"]
        request = ReconcileRequest(watching_since=datetime.now(UTC) - LOST_AFTER)
        assert (await Reconciler(database, cipher, fresh).end_unrecorded(request)).ended == 1
        await _removed(runs)
    context = await runs.context(run)
    assert (context.status, context.reason) == (InstanceStatus.CANCELLED, "consent_withdrawn")
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM dead_letters") == 0  # no replay revives it
    await run.handle.terminate()


async def test_attempts_for_an_unknown_instance_never_make_an_entry_dead(
    runs: Runs, run: Run, customer: Customer, fresh: Client
) -> None:
    await _enqueue_event(runs, run, customer)
    await customer.withdraw(Purpose.MARKETING)
    async with runs.database.connection() as connection:
        await connection.execute("UPDATE temporal_outbox SET attempts = $1", GIVE_UP_AFTER - 1)
        async with delivering(runs, fresh), asyncio.timeout(60):
            # Longer than the pause after an answer that came too late, as from a busy machine.
            soon = "SELECT count(*) FROM temporal_outbox WHERE due_at < now() + interval '5 seconds'"
            while await connection.fetchval(soon):
                await asyncio.sleep(0.02)
        entries = await connection.fetch(
            "SELECT kind, attempts, dead, due_at - now() < interval '1 minute' FROM temporal_outbox ORDER BY kind"
        )
    assert [tuple(row) for row in entries] == [
        ("cancel", GIVE_UP_AFTER - 1, False, True),
        ("signal", GIVE_UP_AFTER - 1, False, False),
    ]
    await run.handle.terminate()
