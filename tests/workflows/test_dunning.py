"""Dunning over two weeks of virtual time, with a billing service that is a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from temporalio.testing import WorkflowEnvironment

from models.vocabulary import InstanceStatus, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from testing.hooks import HookServer
from testing.mail import MailServer
from testing.people import Customer
from testing.runs import Runs
from testing.temporal import DAY
from tests.events.test_outbox import Log as EventLog
from worker import build_worker
from workflows.catalog import find

DUNNING = find("dunning").implementation
SECOND = timedelta(seconds=1)
REMINDERS = {"payment_failed": 1, "payment_still_failing": 3, "subscription_ends_soon": 7}
"""Days after the failed payment."""


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    """A customer in Berlin without consent to marketing."""
    return await Customer.new(database, cipher, Purpose.DATA_COLLECTION, timezone="Europe/Berlin")


@pytest.fixture
async def billing() -> AsyncIterator[HookServer]:
    async with HookServer() as server:
        yield server


@pytest.fixture
async def dunning(
    skipping: WorkflowEnvironment,
    database: Database,
    cipher: Cipher,
    worker_settings: Settings,
    billing: HookServer,
) -> AsyncIterator[Runs]:
    """A worker that knows the billing service."""
    settings = worker_settings.model_copy(update={"billing_url": billing.url})
    async with build_worker(skipping.client, settings, database, cipher, lifecycles=[DUNNING]):
        yield Runs(skipping, database, cipher, settings.task_queue)


async def test_an_unpaid_invoice_is_reminded_of_three_times_and_its_subscription_cancelled_after_two_weeks(
    dunning: Runs, customer: Customer, mail: MailServer, billing: HookServer
) -> None:
    began = datetime.now(UTC)
    run = await dunning.start(customer.user_id, "dunning", parameters={"invoice_id": "in-1"})
    assert (await run.handle.result()).reason == "cancelled"
    assert [str(each["Subject"]).replace(customer.name, "Ada") for each in mail.to(customer.email)] == [
        "Ada, your payment didn't go through",
        "Ada, your invoice is still open",
        "Ada, your subscription ends soon",
    ]
    context = await dunning.context(run)
    for template, after in REMINDERS.items():
        until = datetime.fromisoformat(context.results[f"wait_for_nine_before_{template}"]["until"])
        local = until.astimezone(ZoneInfo("Europe/Berlin"))
        assert (local.isoweekday() <= 5, local.hour, local.minute) == (True, 9, 0)
        assert after * DAY <= until - began < (after + 4) * DAY
    [call] = billing.received
    assert (call.method, call.path) == ("POST", "/subscriptions/cancel")
    assert json.loads(call.body) == {"user_id": customer.user_id, "invoice_id": "in-1"}
    assert len(call.headers["idempotency-key"]) == 32
    closed = (await run.handle.describe()).close_time
    assert closed is not None
    assert 14 * DAY - SECOND <= closed - began < 15 * DAY
    assert (context.status, context.variables) == (InstanceStatus.COMPLETED, {"cancelled": True})
    await dunning.replay(run)


async def test_without_the_address_of_the_billing_service_the_cancellation_is_skipped_and_says_so(
    runs: Runs, customer: Customer
) -> None:
    run = await runs.start(customer.user_id, "dunning", parameters={"invoice_id": "in-1"})
    assert (await run.handle.result()).reason == "unpaid"
    context = await runs.context(run)
    assert context.results["cancel_subscription"] == {"status": None, "body": None, "skipped": True}
    assert (context.status, context.variables) == (InstanceStatus.COMPLETED, {"cancelled": False})


async def test_a_payment_of_the_invoice_between_two_reminders_ends_it_and_cancels_nothing(
    dunning: Runs, customer: Customer, cipher: Cipher, mail: MailServer, billing: HookServer
) -> None:
    log = EventLog(dunning.database, cipher, customer)
    parameters = {"invoice_id": "in-1", "good_hour_within": "P0D"}
    run = await dunning.start(customer.user_id, "dunning", parameters=parameters, still=True)
    await dunning.until(run, "wait_before_payment_failed")
    await dunning.environment.fast_forward(run.handle, DAY)
    await dunning.until(run, "wait_before_payment_still_failing")
    assert await log.project(await log.store("billing.payment_succeeded", invoice_id="in-2")) == 0
    paid = await log.store("billing.payment_succeeded", invoice_id="in-1")
    assert await log.project(paid) == 1
    await dunning.notify(run, "billing.payment_succeeded", paid.event_id, at=paid.timestamp, step="~exit_1")
    assert (await run.handle.result()).reason == "paid"
    assert len(mail.to(customer.email)) == 1
    assert billing.received == []
