"""Instances know the event that started them: its properties, and the parameters that they give."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment

from activities.outbox import Outbox
from models.errors import ParameterMissingError
from models.rules.folding import LogEvent
from models.rules.triggers import WorkflowTrigger, on
from models.vocabulary import InstanceStatus, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from store import outbox
from store.instances import starting
from store.instances.starting import StartRequest
from testing.people import Customer
from testing.runs import Run, Runs
from tests.events.test_outbox import Log as EventLog
from tests.support.billed import Billed
from worker import build_worker

STARTABLE = Billed.definition.startable
TRIGGERS = [WorkflowTrigger("billed", on("billing.failed"))]


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    return await Customer.new(database, cipher, Purpose.DATA_COLLECTION)


@pytest.fixture
def log(database: Database, cipher: Cipher, customer: Customer) -> EventLog:
    return EventLog(database, cipher, customer)


@pytest.fixture
async def billed(
    skipping: WorkflowEnvironment, database: Database, cipher: Cipher, worker_settings: Settings
) -> AsyncIterator[Runs]:
    async with build_worker(skipping.client, worker_settings, database, cipher, lifecycles=[Billed]):
        yield Runs(skipping, database, cipher, worker_settings.task_queue, [Billed])


async def follow(billed: Runs, log: EventLog, event: LogEvent) -> Run:
    """Deliver the start that an event causes, as the outbox does. Clocks of instances stand still."""
    client = billed.environment.client
    await log.project(event, triggers=TRIGGERS)
    async with billed.database.connection() as connection:
        due = await outbox.due(connection, 1, [])
    delivery = Outbox(billed.database, billed.cipher, client, client, billed.task_queue, {"billed": STARTABLE})
    with billed.environment.with_time_skipping_disabled():
        for each in due:
            await delivery._deliver(each)
    return billed.at("billed", outbox.triggered_instance_id("billed", event.event_id))


async def test_a_journey_reads_the_properties_of_its_trigger_and_of_an_awaited_event(
    billed: Runs, log: EventLog
) -> None:
    failed = await log.store("billing.failed", invoice_id="in-17", amount="9.90")
    run = await follow(billed, log, failed)
    await billed.until(run, "wait_for_call")
    call = await log.store("billing.call", about="kanarie")
    await billed.notify(run, "billing.call", call.event_id, at=call.timestamp)
    assert (await run.handle.result()).reason == "called"
    context = await billed.context(run)
    assert context.variables == {
        "trigger": ["billing.failed", {"invoice_id": "in-17", "amount": "9.90"}],
        "call": {"about": "kanarie"},
    }
    assert context.parameters == {"invoice": "in-17", "patience": "P1D"}
    assert context.trigger is not None
    assert (context.trigger.event_id, context.trigger.event_type) == (failed.event_id, "billing.failed")
    history = await run.handle.fetch_history()
    assert b"kanarie" not in b"".join(each.SerializeToString() for each in history.events)
    await billed.replay(run)


@pytest.mark.parametrize(("invoice_id", "ends"), [("in-1", 1), ("in-2", 0)])
async def test_only_the_payment_of_its_invoice_ends_it_however_it_was_started(
    billed: Runs, log: EventLog, customer: Customer, invoice_id: str, ends: int
) -> None:
    """The payment is signalled to the instance that a trigger started, and to the one that a request started."""
    run = await follow(billed, log, await log.store("billing.failed", invoice_id="in-1"))
    await billed.until(run, "wait_for_call")
    requested = await billed.start(customer.user_id, "billed", parameters={"invoice": "in-1"}, still=True)
    await billed.until(requested, "wait_for_call")
    assert await log.project(await log.store("billing.paid", invoice_id=invoice_id)) == 2 * ends
    for each in (run, requested):
        await each.handle.terminate()


@pytest.mark.parametrize("properties", [{}, {"invoice_id": 17}, {"invoice_id": ["in-1"]}])
async def test_an_event_without_the_value_that_an_exit_needs_starts_nothing(
    billed: Runs, log: EventLog, properties: dict[str, Any]
) -> None:
    """17 is no text, so the parameter stays null."""
    await follow(billed, log, await log.store("billing.failed", **properties))
    async with billed.database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM instances") == 0
        assert await connection.fetchval("SELECT count(*) FROM temporal_outbox") == 0


async def test_a_request_without_the_value_that_an_exit_needs_is_refused_at_its_parameter(
    database: Database, cipher: Cipher, customer: Customer
) -> None:
    request = StartRequest(uuid.uuid4().hex, customer.user_id, "key", dict(STARTABLE.default_parameters))
    async with database.transaction() as connection:
        with pytest.raises(ParameterMissingError) as raised:
            await starting.start(connection, cipher, STARTABLE, request)
    [error] = raised.value.errors
    assert (raised.value.status, error.pointer, error.code) == (422, "/parameters/invoice", "required")


async def test_a_journey_whose_event_is_gone_reads_no_properties(
    billed: Runs, log: EventLog, customer: Customer
) -> None:
    """Nor does it read an event of another user."""
    stranger = await Customer.new(billed.database, billed.cipher, Purpose.DATA_COLLECTION)
    others = await EventLog(billed.database, billed.cipher, stranger).store("billing.failed", invoice_id="in-1")
    run = await billed.begin(await billed.stored(customer.user_id, "billed", trigger=others))
    assert (await run.handle.result()).reason == "unpaid"
    context = await billed.context(run)
    assert context.status is InstanceStatus.COMPLETED
    assert context.variables == {"trigger": ["billing.failed", {}]}
