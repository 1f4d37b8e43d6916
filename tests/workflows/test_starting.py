"""Starts by trigger: once per event, and at most once in a window for a user."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta

import pytest
from temporalio.testing import WorkflowEnvironment

from activities.outbox import Outbox
from models.instances import NewInstance
from models.rules.folding import LogEvent
from models.rules.triggers import WorkflowTrigger
from models.temporal.starting import Startable
from models.vocabulary import Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from store import outbox
from store.instances import triggers
from testing.people import Customer
from testing.runs import Runs
from tests.events.test_outbox import Log as EventLog
from tests.support.journeys import Leaver

TRIGGER = Leaver.definition.trigger
assert TRIGGER is not None
TRIGGERS: Sequence[WorkflowTrigger] = [WorkflowTrigger("leaver", TRIGGER, Leaver.definition.once_per)]
STARTABLES: Mapping[str, Startable] = {"leaver": Leaver.definition.startable}


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    return await Customer.new(database, cipher, Purpose.DATA_COLLECTION)


@pytest.fixture
def log(database: Database, cipher: Cipher, customer: Customer) -> EventLog:
    return EventLog(database, cipher, customer)


async def deliver(
    skipping: WorkflowEnvironment, database: Database, cipher: Cipher, settings: Settings, *, carriers: int = 1
) -> None:
    """Empty the outbox, with some carriers at once."""
    async with database.connection() as connection:
        over = asyncio.Event()

        async def watch() -> None:
            async with asyncio.timeout(60):
                while await connection.fetchval("SELECT count(*) FROM temporal_outbox"):
                    await asyncio.sleep(0.02)
            over.set()

        with skipping.with_time_skipping_disabled():
            await asyncio.gather(
                watch(),
                *(
                    Outbox(
                        database, cipher, skipping.client, skipping.client, settings.task_queue, STARTABLES
                    ).deliver_while(lambda: not over.is_set())
                    for _ in range(carriers)
                ),
            )


async def enqueue(log: EventLog, *events: LogEvent) -> int:
    return await log.project(*events, triggers=TRIGGERS)


async def started(database: Database) -> int:
    async with database.connection() as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM instances WHERE workflow_id = 'leaver'")
    return count


async def test_many_events_at_once_start_one_instance_within_the_window(
    journeys: Runs, database: Database, cipher: Cipher, worker_settings: Settings, log: EventLog
) -> None:
    """With three carriers at once, as when two workers deliver the outbox, and each entry twice."""
    events = [await log.store("cart.fill") for _ in range(8)]
    await enqueue(log, *events)
    await enqueue(log, *events)
    await deliver(journeys.environment, database, cipher, worker_settings, carriers=3)
    assert await started(database) == 1


async def test_the_next_window_starts_it_again(
    journeys: Runs, database: Database, cipher: Cipher, worker_settings: Settings, log: EventLog
) -> None:
    await enqueue(log, await log.store("cart.fill"))
    await deliver(journeys.environment, database, cipher, worker_settings)
    async with database.connection() as connection:
        await connection.execute("UPDATE trigger_windows SET opened_at = now() - interval '6 days 23 hours'")
    assert await enqueue(log, await log.store("cart.fill")) == 0  # no signal without effect
    assert await started(database) == 1
    async with database.connection() as connection:
        await connection.execute("UPDATE trigger_windows SET opened_at = now() - interval '7 days'")
    await enqueue(log, await log.store("cart.fill"))
    await deliver(journeys.environment, database, cipher, worker_settings)
    assert await started(database) == 2


async def test_requests_neither_open_a_window_nor_are_bound_by_one(
    journeys: Runs,
    database: Database,
    cipher: Cipher,
    worker_settings: Settings,
    log: EventLog,
    customer: Customer,
) -> None:
    for _ in range(2):
        await journeys.start(customer.user_id, "leaver", still=True)
    await enqueue(log, await log.store("cart.fill"))
    await deliver(journeys.environment, database, cipher, worker_settings)
    assert await started(database) == 3
    await journeys.start(customer.user_id, "leaver", still=True)
    assert await started(database) == 4


async def test_a_triggered_instance_has_its_exits(
    journeys: Runs, database: Database, cipher: Cipher, worker_settings: Settings, log: EventLog
) -> None:
    event = await log.store("cart.fill")
    await enqueue(log, event)
    await deliver(journeys.environment, database, cipher, worker_settings)
    run = journeys.at("leaver", outbox.triggered_instance_id("leaver", event.event_id))
    await journeys.until(run, "wait_for_never_comes")
    await enqueue(log, await log.store("cart.buy", currency="EUR"))
    await deliver(journeys.environment, database, cipher, worker_settings)
    assert (await run.handle.result()).reason == "bought"


async def test_a_triggered_instance_gets_its_exits_before_its_first_step(
    skipping: WorkflowEnvironment, database: Database, cipher: Cipher, worker_settings: Settings, log: EventLog
) -> None:
    """No worker has run it yet."""
    await enqueue(log, await log.store("cart.fill"))
    await deliver(skipping, database, cipher, worker_settings)
    assert await enqueue(log, await log.store("cart.drop")) == 1


async def test_a_window_opens_once_across_connections_and_a_rollback_closes_it(
    database: Database, customer: Customer
) -> None:
    week = timedelta(days=7)

    async def attempt(instance_id: str, *, fail: bool = False) -> bool:
        try:
            async with database.transaction() as connection:
                new = NewInstance(instance_id, "leaver", customer.user_id, 1, {}, "trigger")
                opened = await triggers.open_window(connection, new, week)
                await asyncio.sleep(0.01)
                if fail:
                    raise RuntimeError("the process died here")
        except RuntimeError:
            return False
        return opened

    assert await attempt("dead", fail=True) is False
    attempts = await asyncio.gather(*(attempt(uuid.uuid4().hex) for _ in range(12)))
    assert attempts.count(True) == 1
