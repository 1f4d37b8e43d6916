"""Events that come while an instance with their key runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from activities.outbox import Outbox
from models.rules.folding import LogEvent
from models.rules.triggers import WorkflowTrigger, on
from models.vocabulary import Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store import outbox
from testing.people import Customer
from testing.runs import Run, Runs
from tests.events.test_outbox import Log as EventLog
from worker import startables

TRIGGERS = [WorkflowTrigger("dunning", on("billing.payment_failed", max_age=timedelta(days=1)))]


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    return await Customer.new(database, cipher, Purpose.DATA_COLLECTION)


@pytest.fixture
def log(database: Database, cipher: Cipher, customer: Customer) -> EventLog:
    return EventLog(database, cipher, customer)


async def deliver(runs: Runs) -> None:
    """Deliver each entry of the outbox once, also those that wait for a retry."""
    client = runs.environment.client
    async with runs.database.connection() as connection:
        await connection.execute("UPDATE temporal_outbox SET due_at = now()")
        due = await outbox.due(connection, 10, [])
    delivery = Outbox(runs.database, runs.cipher, client, client, runs.task_queue, startables())
    with runs.environment.with_time_skipping_disabled():
        for each in due:
            await delivery._deliver(each)


async def failed(runs: Runs, log: EventLog, *, ago: timedelta = timedelta()) -> tuple[LogEvent, Run]:
    """A failed payment, with its start in the outbox; and the instance that it may start."""
    event = await log.store("billing.payment_failed", ago=ago, invoice_id="in-1")
    assert await log.project(event, triggers=TRIGGERS) == 1
    return event, runs.at("dunning", outbox.triggered_instance_id("dunning", event.event_id))


async def found(runs: Runs, column: str) -> list[Any]:
    queries = {
        "instances": "SELECT instance_id FROM instances ORDER BY start_time",
        "waiting": "SELECT event_id FROM temporal_outbox",
        "reasons": "SELECT reason FROM decisions",
    }
    async with runs.database.connection() as connection:
        return [row[0] for row in await connection.fetch(queries[column])]


async def test_a_repeated_failure_starts_nothing_and_the_decision_says_why(runs: Runs, log: EventLog) -> None:
    _, first = await failed(runs, log)
    await deliver(runs)
    await runs.until(first, "wait_before_payment_failed")
    await failed(runs, log)
    await deliver(runs)
    assert await found(runs, "instances") == [first.instance_id]
    assert (await found(runs, "waiting"), await found(runs, "reasons")) == ([], ["already_running"])
    await first.handle.terminate()


async def test_a_failure_after_the_payment_starts_the_next_instance_once_the_first_has_ended(
    runs: Runs, log: EventLog
) -> None:
    """The payment is in the log, and the instance doesn't know it yet."""
    _, first = await failed(runs, log)
    await deliver(runs)
    await runs.until(first, "wait_before_payment_failed")
    paid = await log.store("billing.payment_succeeded", invoice_id="in-1")
    again, second = await failed(runs, log)
    await deliver(runs)
    assert await found(runs, "waiting") == [again.event_id]
    await runs.notify(first, paid.event_type, paid.event_id, at=paid.timestamp, step="~exit_1")
    assert (await first.handle.result()).reason == "paid"
    await deliver(runs)
    await runs.until(second, "wait_before_payment_failed")
    assert await found(runs, "instances") == [first.instance_id, second.instance_id]
    assert (await found(runs, "waiting"), await found(runs, "reasons")) == ([], [])
    await second.handle.terminate()


async def test_a_start_waits_for_a_held_exit_no_longer_than_a_trigger_may_be_old(
    runs: Runs, log: EventLog
) -> None:
    """The instance is paused."""
    _, first = await failed(runs, log)
    await deliver(runs)
    await runs.until(first, "wait_before_payment_failed")
    await first.handle.execute_update("pause")
    await log.store("billing.payment_succeeded", invoice_id="in-1")
    await failed(runs, log, ago=timedelta(minutes=61))
    late, _ = await failed(runs, log, ago=timedelta(minutes=55))
    await deliver(runs)
    assert (await found(runs, "waiting"), await found(runs, "reasons")) == ([late.event_id], ["already_running"])
    await first.handle.terminate()
