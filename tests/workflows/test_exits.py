"""Exits by event: they take effect at once, in any wait, after a signal and after a look at the log."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowFailureError

from delivery.signatures import new_secret
from models.temporal.execution import ExitRequest
from models.vocabulary import InstanceStatus, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store.instances import callbacks
from store.users import data_keys
from testing.mail import MailServer
from testing.people import Customer
from testing.runs import Runs
from testing.temporal import DAY
from tests.events.test_outbox import Log as EventLog
from workflows.policies import OUTSIDE


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    return await Customer.new(database, cipher, Purpose.DATA_COLLECTION)


@pytest.fixture
def log(database: Database, cipher: Cipher, customer: Customer) -> EventLog:
    return EventLog(database, cipher, customer)


async def test_an_exit_interrupts_a_wait_and_at_exit_runs(journeys: Runs, customer: Customer) -> None:
    run = await journeys.start(customer.user_id, "leaver", still=True)
    await journeys.until(run, "wait_for_never_comes")
    await journeys.notify(run, "cart.drop")
    assert (await run.handle.result()).reason == "cart.drop"
    context = await journeys.context(run)
    assert (context.status, context.reason) == (InstanceStatus.COMPLETED, "cart.drop")
    assert context.results["emit_cart_left"]["status"] == "accepted"
    assert "wait_for_never_comes" not in context.results


async def test_an_exit_sends_the_callback_as_any_other_end_does(
    journeys: Runs, customer: Customer, database: Database, cipher: Cipher
) -> None:
    run = await journeys.start(customer.user_id, "leaver", still=True)
    await journeys.until(run, "wait_for_never_comes")
    async with database.transaction() as connection:
        key = await data_keys.require(connection, cipher, customer.user_id)
        await callbacks.add(connection, key, run.instance_id, "https://example.com/hook", new_secret())
    await journeys.notify(run, "cart.drop")
    await run.handle.result()
    async with database.connection() as connection:
        entries = await connection.fetch("SELECT kind, instance_id FROM temporal_outbox")
        assert [tuple(row) for row in entries] == [("callback", run.instance_id)]
        assert await connection.fetchval("SELECT count(*) FROM event_waits") == 0


async def test_an_exit_counts_only_with_the_required_properties(
    journeys: Runs, customer: Customer, log: EventLog
) -> None:
    """The projector notifies the instance. Its registrations last until its end."""
    run = await journeys.start(customer.user_id, "leaver", still=True)
    await journeys.until(run, "wait_for_never_comes")
    assert await log.project(await log.store("cart.buy", currency="USD")) == 0
    assert await log.project(await log.store("cart.buy", currency="EUR")) == 1
    await run.handle.terminate()


async def test_an_exit_that_came_before_it_was_registered_is_found_in_the_log(
    journeys: Runs, customer: Customer, log: EventLog
) -> None:
    instance = await journeys.stored(customer.user_id, "leaver")
    await log.store("cart.buy", currency="USD")
    await log.store("cart.buy", currency="EUR")
    run = await journeys.begin(instance)
    assert (await run.handle.result()).reason == "bought"


async def test_an_exit_during_a_pause_happens_on_resume(journeys: Runs, customer: Customer) -> None:
    run = await journeys.start(customer.user_id, "leaver", still=True)
    await journeys.until(run, "wait_for_never_comes")
    await run.handle.execute_update("pause")
    await journeys.notify(run, "cart.drop")
    await journeys.environment.fast_forward(run.handle, 2 * DAY)  # the wait has fallen due as well
    assert (await journeys.context(run)).status is InstanceStatus.PAUSED
    await run.handle.execute_update("resume")
    assert (await run.handle.result()).reason == "cart.drop"


async def test_an_exit_that_only_the_log_has_happens_on_resume_before_the_next_step(
    journeys: Runs, customer: Customer, log: EventLog, mail: MailServer
) -> None:
    """The projector hasn't read the event yet, and the wait has fallen due."""
    run = await journeys.start(customer.user_id, "leaver", still=True)
    await journeys.until(run, "wait_for_never_comes")
    await run.handle.execute_update("pause")
    await log.store("cart.drop")
    await journeys.environment.fast_forward(run.handle, 2 * DAY)
    await run.handle.execute_update("resume")
    assert (await run.handle.result()).reason == "cart.drop"
    assert mail.received == []
    await journeys.replay(run)


async def test_an_instance_that_has_an_exit_pending_can_be_cancelled(journeys: Runs, customer: Customer) -> None:
    run = await journeys.start(customer.user_id, "leaver", still=True)
    await journeys.until(run, "wait_for_never_comes")
    await run.handle.execute_update("pause")
    await journeys.notify(run, "cart.drop")
    await run.handle.cancel()
    with pytest.raises(Exception, match="Workflow execution failed"):
        await run.handle.result()
    context = await journeys.context(run)
    assert context.status is InstanceStatus.CANCELLED
    assert context.results["clean_up"] == {"messages_withdrawn": 0}


async def test_a_recorded_end_stays_if_its_workflow_task_is_repeated_with_an_exit(
    journeys: Runs, customer: Customer
) -> None:
    """Temporal refused the completing task, since the signal arrived meanwhile. The repeated task exits, and its
    next step fails, since the instance has ended. The instance completes with the recorded reason."""
    run = await journeys.start(customer.user_id, "leaver", still=True)
    await journeys.until(run, "wait_for_never_comes")
    async with journeys.database.connection() as connection:
        await connection.execute(
            """UPDATE instances SET status = 'completed', reason = 'stayed', end_time = now()
               WHERE instance_id = $1""",
            run.instance_id,
        )
    await journeys.notify(run, "cart.drop")
    assert (await run.handle.result()).reason == "stayed"
    context = await journeys.context(run)
    assert (context.status, context.reason) == (InstanceStatus.COMPLETED, "stayed")
    assert "emit_cart_left" not in context.results


async def test_what_happened_between_the_trigger_and_a_late_start_counts(
    journeys: Runs, customer: Customer, log: EventLog
) -> None:
    """Temporal was not available: the purchase came after the trigger and before the instance began."""
    before = await log.store("cart.drop")
    trigger = await log.store("cart.fill")
    after = await log.store("cart.buy", currency="EUR")
    instance = await journeys.stored(customer.user_id, "leaver", trigger=trigger)
    run = await journeys.begin(instance)
    assert (await run.handle.result()).reason == "bought"
    assert before.event_id != after.event_id


async def test_the_trigger_itself_ends_none_of_the_instance_s_waits(
    journeys: Runs, customer: Customer, log: EventLog
) -> None:
    trigger = await log.store("cart.drop")
    instance = await journeys.stored(customer.user_id, "leaver", trigger=trigger)
    run = await journeys.begin(instance)
    assert (await run.handle.result()).reason == "stayed"


async def test_an_exit_event_that_is_signalled_twice_counts_once(journeys: Runs, customer: Customer) -> None:
    run = await journeys.start(customer.user_id, "leaver", still=True)
    await journeys.until(run, "wait_for_never_comes")
    event_id = uuid.uuid4().hex
    await journeys.notify(run, "cart.drop", event_id)
    await journeys.notify(run, "cart.drop", event_id)
    assert (await run.handle.result()).reason == "cart.drop"


@pytest.mark.parametrize(("order_id", "ends"), [("o-1", True), ("o-2", False)])
async def test_only_a_refund_of_the_instance_s_order_ends_it(
    journeys: Runs, customer: Customer, log: EventLog, order_id: str, ends: bool
) -> None:
    """By a signal of the projector, and by the look at the log."""
    purchase = await log.store("transaction.purchase_complete", order_id="o-1")
    instance = await journeys.stored(customer.user_id, "post_purchase", trigger=purchase)
    run = await journeys.begin(instance, still=True)
    await journeys.until(run, "wait_before_thanks")
    refund = await log.store("transaction.refund", order_id=order_id)
    assert await log.project(refund) == int(ends)
    await run.handle.terminate()

    late = await journeys.stored(customer.user_id, "post_purchase", trigger=purchase)
    second = await journeys.begin(late)
    assert ((await second.handle.result()).reason == "refunded") is ends
    assert b"o-1" not in b"".join(
        each.SerializeToString() for each in (await second.handle.fetch_history()).events
    )


@pytest.mark.parametrize(("order_id", "ends"), [("o-1", True), ("o-2", False)])
async def test_a_request_names_the_order_whose_refund_ends_the_instance(
    journeys: Runs, customer: Customer, log: EventLog, order_id: str, ends: bool
) -> None:
    run = await journeys.start(customer.user_id, "post_purchase", parameters={"order_id": "o-1"}, still=True)
    await journeys.until(run, "wait_before_thanks")
    assert await log.project(await log.store("transaction.refund", order_id=order_id)) == int(ends)
    await run.handle.terminate()


async def test_no_refund_ends_an_instance_without_an_order(
    journeys: Runs, customer: Customer, log: EventLog
) -> None:
    run = await journeys.start(customer.user_id, "post_purchase", still=True)
    await journeys.until(run, "wait_before_thanks")
    assert await log.project(await log.store("transaction.refund", order_id="o-9")) == 0
    await run.handle.terminate()


@pytest.mark.parametrize(("order_id", "ends"), [("o-1", True), ("o-2", False)])
async def test_an_instance_of_an_earlier_version_compares_exits_with_its_trigger(
    journeys: Runs, customer: Customer, log: EventLog, order_id: str, ends: bool
) -> None:
    """Its input names the property (`same`), and its first recording reads the value."""
    purchase = await log.store("transaction.purchase_complete", order_id="o-1")
    new = await journeys.stored(customer.user_id, "post_purchase", trigger=purchase)
    async with journeys.database.connection() as connection:
        await connection.execute("DELETE FROM event_waits")
    refund = ExitRequest(event_type="transaction.refund", reason="refunded", same=["order_id"])
    run = await journeys.begin(replace(new, parameters={}, exits=[refund], trigger=None), still=True)
    await journeys.until(run, "wait_before_thanks")
    assert await log.project(await log.store("transaction.refund", order_id=order_id)) == int(ends)
    await run.handle.terminate()


async def test_an_exit_during_the_first_step_ends_the_journey_after_that_step(
    journeys: Runs, customer: Customer, log: EventLog, mail: MailServer
) -> None:
    """Exits are registered with the instance itself, not with its first wait."""
    arrived, mail.hold_recipients = asyncio.Event(), asyncio.Event()
    mail.on_recipient = lambda _: arrived.set()
    run = await journeys.start(customer.user_id, "eager", still=True)
    async with asyncio.timeout(60):
        await arrived.wait()
    event = await log.store("cart.drop")
    assert await log.project(event) == 1
    await journeys.notify(run, "cart.drop", event.event_id, step="~exit_1")
    mail.hold_recipients.set()
    assert (await run.handle.result()).reason == "cart.drop"
    assert len(mail.received) == 1
    assert set((await journeys.context(run)).results) == {"send_welcome"}


async def test_an_exit_does_not_wait_for_all_attempts_of_a_step_that_keeps_failing(
    journeys: Runs, customer: Customer, mail: MailServer
) -> None:
    mail.refuse_recipients = "450 try later"
    run = await journeys.start(customer.user_id, "eager", max_attempts=100, still=True)
    await journeys.until_tried(run, "send_welcome", 2)
    await journeys.notify(run, "cart.drop")
    await journeys.environment.fast_forward(run.handle, OUTSIDE.attempt_timeout * 2)
    assert (await run.handle.result()).reason == "cart.drop"
    context = await journeys.context(run)
    assert (context.status, context.error, context.results) == (InstanceStatus.COMPLETED, None, {})
    assert len(context.attempts) < 20
    assert mail.received == []


async def test_an_exit_does_not_give_up_a_failing_step_during_a_pause(
    journeys: Runs, customer: Customer, mail: MailServer
) -> None:
    mail.refuse_recipients = "450 try later"
    run = await journeys.start(customer.user_id, "eager", max_attempts=100, still=True)
    await journeys.until_tried(run, "send_welcome", 1)
    await run.handle.execute_update("pause")
    await journeys.notify(run, "cart.drop")
    await journeys.environment.fast_forward(run.handle, OUTSIDE.attempt_timeout * 2)
    assert (await journeys.context(run)).status is InstanceStatus.PAUSED
    await run.handle.execute_update("resume")
    await journeys.environment.fast_forward(run.handle, OUTSIDE.attempt_timeout * 2)
    assert (await run.handle.result()).reason == "cart.drop"


async def test_a_cancellation_while_an_exit_waits_for_a_failing_step_cancels_the_instance(
    journeys: Runs, customer: Customer, mail: MailServer
) -> None:
    mail.refuse_recipients = "450 try later"
    run = await journeys.start(customer.user_id, "eager", max_attempts=100, still=True)
    await journeys.until_tried(run, "send_welcome", 1)
    await journeys.notify(run, "cart.drop")
    await run.handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    assert (await journeys.context(run)).status is InstanceStatus.CANCELLED


async def test_an_exit_that_arrived_during_a_step_replays(
    journeys: Runs, customer: Customer, mail: MailServer
) -> None:
    arrived, mail.hold_recipients = asyncio.Event(), asyncio.Event()
    mail.on_recipient = lambda _: arrived.set()
    run = await journeys.start(customer.user_id, "eager", still=True)
    async with asyncio.timeout(60):
        await arrived.wait()
    await journeys.notify(run, "cart.drop")
    async with asyncio.timeout(60):  # until the workflow has handled it
        while (await run.handle.fetch_history()).events[-1].event_type != EventType.EVENT_TYPE_TIMER_STARTED:
            await asyncio.sleep(0.05)
    mail.hold_recipients.set()
    assert (await run.handle.result()).reason == "cart.drop"
    await journeys.replay(run)


@pytest.mark.parametrize(
    ("workflow_id", "wait", "exit_type", "reason"),
    [
        ("leaver", "wait_for_never_comes", "cart.drop", "cart.drop"),
        ("cart_recovery", "wait_for_end_of_shopping", "transaction.purchase_complete", "purchased"),
    ],
)
async def test_an_exit_before_the_deadline_of_a_paused_wait_happens_on_resume(
    journeys: Runs, customer: Customer, workflow_id: str, wait: str, exit_type: str, reason: str
) -> None:
    run = await journeys.start(customer.user_id, workflow_id, still=True)
    await journeys.until(run, wait)
    await run.handle.execute_update("pause")
    await journeys.notify(run, exit_type)
    await journeys.until_handled(run)
    await asyncio.sleep(0.2)
    context = await journeys.context(run)
    assert (context.status, context.current_step) == (InstanceStatus.PAUSED, wait)
    await run.handle.execute_update("resume")
    assert (await run.handle.result()).reason == reason
