"""Exits by event: at once, whatever the journey waits for, and however the event is learnt of."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowFailureError
from temporalio.worker import Replayer

from models.vocabulary import InstanceStatus, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store.instances import callbacks
from store.users import data_keys
from tests.events.test_outbox import Log as EventLog
from tests.support.journeys import Eager, Parting
from tests.support.mail import MailServer
from tests.support.people import Customer
from tests.support.runs import Run, Runs
from tests.support.temporal import DAY
from worker import workflow_runner
from workflows.base import LifecycleWorkflow
from workflows.interceptors import OutcomeInterceptor
from workflows.policies import OUTSIDE
from workflows.steps import Trials

HEARD = (EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED, EventType.EVENT_TYPE_TIMER_STARTED)


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    return await Customer.new(database, cipher, Purpose.DATA_COLLECTION)


@pytest.fixture
def log(database: Database, cipher: Cipher, customer: Customer) -> EventLog:
    return EventLog(database, cipher, customer)


async def test_an_exit_interrupts_a_wait_and_what_comes_after_it_runs(journeys: Runs, customer: Customer) -> None:
    run = await journeys.start(customer.user_id, "leaver", still=True)
    await journeys.until(run, "wait_for_never_comes")
    await journeys.tell(run, "cart.drop")
    assert (await run.handle.result()).reason == "cart.drop"
    context = await journeys.context(run)
    assert (context.status, context.reason) == (InstanceStatus.COMPLETED, "cart.drop")
    assert context.results["emit_cart_left"]["status"] == "accepted"
    assert "wait_for_never_comes" not in context.results


async def test_an_exit_is_an_end_like_any_other_and_whoever_asked_is_told(
    journeys: Runs, customer: Customer, database: Database, cipher: Cipher
) -> None:
    run = await journeys.start(customer.user_id, "leaver", still=True)
    await journeys.until(run, "wait_for_never_comes")
    async with database.transaction() as connection:
        key = await data_keys.require(connection, cipher, customer.user_id)
        await callbacks.place(connection, key, run.instance_id, "https://example.com/hook")
    await journeys.tell(run, "cart.drop")
    await run.handle.result()
    async with database.connection() as connection:
        told = await connection.fetch("SELECT kind, instance_id FROM temporal_outbox")
        assert [tuple(row) for row in told] == [("callback", run.instance_id)]
        assert await connection.fetchval("SELECT count(*) FROM event_waits") == 0


async def test_an_exit_counts_only_with_the_properties_asked_for(
    journeys: Runs, customer: Customer, log: EventLog
) -> None:
    """Told by the projector, through registrations that stand for as long as the instance runs."""
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
    await journeys.tell(run, "cart.drop")
    await journeys.environment.fast_forward(run.handle, 2 * DAY)  # the wait has fallen due as well
    assert (await journeys.context(run)).status is InstanceStatus.PAUSED
    await run.handle.execute_update("resume")
    assert (await run.handle.result()).reason == "cart.drop"


async def test_an_instance_that_has_an_exit_pending_can_be_cancelled(journeys: Runs, customer: Customer) -> None:
    run = await journeys.start(customer.user_id, "leaver", still=True)
    await journeys.until(run, "wait_for_never_comes")
    await run.handle.execute_update("pause")
    await journeys.tell(run, "cart.drop")
    await run.handle.cancel()
    with pytest.raises(Exception, match="Workflow execution failed"):
        await run.handle.result()
    context = await journeys.context(run)
    assert context.status is InstanceStatus.CANCELLED
    assert context.results["clean_up"] == {"messages_withdrawn": 0}


async def test_an_end_that_was_recorded_stays_where_its_workflow_task_is_done_again_with_an_exit(
    journeys: Runs, customer: Customer
) -> None:
    """Temporal refused the completing task, since the exit's signal came in that moment: done again, the journey
    leaves instead, and the step after that is refused. The instance completes as it had."""
    run = await journeys.start(customer.user_id, "leaver", still=True)
    await journeys.until(run, "wait_for_never_comes")
    async with journeys.database.connection() as connection:
        await connection.execute(
            """UPDATE instances SET status = 'completed', reason = 'stayed', end_time = now()
               WHERE instance_id = $1""",
            run.instance_id,
        )
    await journeys.tell(run, "cart.drop")
    assert (await run.handle.result()).reason == "stayed"
    context = await journeys.context(run)
    assert (context.status, context.reason) == (InstanceStatus.COMPLETED, "stayed")
    assert "emit_cart_left" not in context.results


async def test_an_exit_ends_every_branch(journeys: Runs, customer: Customer, mail: MailServer) -> None:
    run = await journeys.start(customer.user_id, "twins", still=True)
    await journeys.until(run, "sleep_right")
    await journeys.tell(run, "twins.apart")
    assert (await run.handle.result()).reason == "apart"
    assert mail.received == []


async def test_branches_that_wait_side_by_side_register_each_its_own_wait(
    journeys: Runs, customer: Customer, log: EventLog
) -> None:
    run = await journeys.start(customer.user_id, "twins", still=True)
    await journeys.until(run, "sleep_right")
    await journeys.environment.fast_forward(run.handle, DAY)
    async with journeys.database.connection() as connection, asyncio.timeout(60):
        while True:
            rows = await connection.fetch("SELECT step FROM event_waits WHERE step LIKE 'hear%' ORDER BY step")
            if len(rows) == 2:
                break
            await asyncio.sleep(0.02)
    assert [row["step"] for row in rows] == ["hear_left", "hear_right"]
    assert await log.project(await log.store("twins.speak")) == 2
    await run.handle.terminate()


async def test_what_happened_between_the_trigger_and_a_late_start_counts(
    journeys: Runs, customer: Customer, log: EventLog
) -> None:
    """Temporal was away for a while: the purchase came before the instance began, and after its trigger."""
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


async def test_the_same_event_for_an_exit_and_told_twice_changes_nothing(
    journeys: Runs, customer: Customer
) -> None:
    run = await journeys.start(customer.user_id, "leaver", still=True)
    await journeys.until(run, "wait_for_never_comes")
    event_id = uuid.uuid4().hex
    await journeys.tell(run, "cart.drop", event_id)
    await journeys.tell(run, "cart.drop", event_id)
    assert (await run.handle.result()).reason == "cart.drop"


@pytest.mark.parametrize(("order_id", "ends"), [("o-1", True), ("o-2", False)])
async def test_of_refunds_that_of_the_order_which_the_instance_is_about_ends_it(
    journeys: Runs, customer: Customer, log: EventLog, order_id: str, ends: bool
) -> None:
    """Told by the projector, and found in the log."""
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


async def test_an_instance_that_a_request_started_is_about_no_order_and_any_refund_ends_it(
    journeys: Runs, customer: Customer, log: EventLog
) -> None:
    run = await journeys.start(customer.user_id, "post_purchase", still=True)
    await journeys.until(run, "wait_before_thanks")
    assert await log.project(await log.store("transaction.refund", order_id="o-9")) == 1
    await run.handle.terminate()


async def test_an_exit_during_the_first_step_is_told_and_the_journey_left_after_it(
    journeys: Runs, customer: Customer, log: EventLog, mail: MailServer
) -> None:
    """Registered with the instance itself, not with its first wait. The step that is under way ends."""
    arrived, mail.hold_recipients = asyncio.Event(), asyncio.Event()
    mail.on_recipient = lambda _: arrived.set()
    run = await journeys.start(customer.user_id, "eager", still=True)
    async with asyncio.timeout(60):
        await arrived.wait()
    event = await log.store("cart.drop")
    assert await log.project(event) == 1
    await journeys.tell(run, "cart.drop", event.event_id, step="~exit_1")
    mail.hold_recipients.set()
    assert (await run.handle.result()).reason == "cart.drop"
    assert len(mail.received) == 1
    assert set((await journeys.context(run)).results) == {"send_welcome"}


async def test_an_exit_does_not_wait_for_all_attempts_of_a_step_that_goes_on_failing(
    journeys: Runs, customer: Customer, mail: MailServer
) -> None:
    mail.refuse_recipients = "450 try later"
    run = await journeys.start(customer.user_id, "eager", max_attempts=100, still=True)
    await _tried(journeys, run, 2)
    await journeys.tell(run, "cart.drop")
    await journeys.environment.fast_forward(run.handle, OUTSIDE.attempt_timeout * 2)
    assert (await run.handle.result()).reason == "cart.drop"
    context = await journeys.context(run)
    assert (context.status, context.error, context.results) == (InstanceStatus.COMPLETED, None, {})
    assert len(context.attempts) < 20
    assert mail.received == []


async def test_an_exit_lets_a_failing_step_be_while_paused(
    journeys: Runs, customer: Customer, mail: MailServer
) -> None:
    mail.refuse_recipients = "450 try later"
    run = await journeys.start(customer.user_id, "eager", max_attempts=100, still=True)
    await _tried(journeys, run, 1)
    await run.handle.execute_update("pause")
    await journeys.tell(run, "cart.drop")
    await journeys.environment.fast_forward(run.handle, OUTSIDE.attempt_timeout * 2)
    assert (await journeys.context(run)).status is InstanceStatus.PAUSED
    await run.handle.execute_update("resume")
    await journeys.environment.fast_forward(run.handle, OUTSIDE.attempt_timeout * 2)
    assert (await run.handle.result()).reason == "cart.drop"


async def test_who_cancels_while_an_exit_waits_for_a_failing_step_cancels(
    journeys: Runs, customer: Customer, mail: MailServer
) -> None:
    mail.refuse_recipients = "450 try later"
    run = await journeys.start(customer.user_id, "eager", max_attempts=100, still=True)
    await _tried(journeys, run, 1)
    await journeys.tell(run, "cart.drop")
    await run.handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    assert (await journeys.context(run)).status is InstanceStatus.CANCELLED


async def _heard(run: Run) -> bool:
    """Whether the workflow has taken in what it was told."""
    types = [event.event_type for event in (await run.handle.fetch_history()).events]
    told = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    return told in types and EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED in types[types.index(told) :]


async def _tried(journeys: Runs, run: Run, times: int) -> None:
    """Wait until attempts have failed."""
    async with asyncio.timeout(60):
        while len([each for each in (await journeys.context(run)).attempts if each.ended_at]) < times:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("event_type", "status"), [("parting.now", "completed"), ("parting.stumble", "failed")])
async def test_a_step_of_another_branch_ends_before_what_ends_the_journey_is_followed(
    journeys: Runs, customer: Customer, mail: MailServer, event_type: str, status: str
) -> None:
    arrived, mail.hold_recipients = asyncio.Event(), asyncio.Event()
    mail.on_recipient = lambda _: arrived.set()
    run = await journeys.start(customer.user_id, "parting", still=True)
    async with asyncio.timeout(60):
        await arrived.wait()
    await journeys.tell(run, event_type)
    async with asyncio.timeout(60):
        while not await _heard(run):
            await asyncio.sleep(0.05)
    assert set((await journeys.context(run)).results) <= {"stumble"}
    mail.hold_recipients.set()
    with contextlib.suppress(WorkflowFailureError):
        await run.handle.result()
    context = await journeys.context(run)
    assert context.status == status
    assert "send_welcome" in context.results
    assert "send_onboarding_nudge" not in context.results
    assert context.end_time is not None
    (attempt,) = [each for each in context.attempts if each.step == "send_welcome"]
    later = [each.started_at for each in context.attempts if each.step == "emit_parting_done"]
    assert attempt.ended_at is not None
    assert [each for each in (*later, context.end_time) if each < attempt.ended_at] == []
    assert len(mail.received) == 1


@pytest.mark.parametrize("before", [True, False])
async def test_an_exit_that_came_during_a_step_replays_as_it_was(
    journeys: Runs, customer: Customer, mail: MailServer, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """Also from before exits gave failing steps up: then nothing told the exit apart until the step was over."""
    if before:
        monkeypatch.setattr(Trials, "hold_up", lambda _: False)
    arrived, mail.hold_recipients = asyncio.Event(), asyncio.Event()
    mail.on_recipient = lambda _: arrived.set()
    run = await journeys.start(customer.user_id, "eager", still=True)
    async with asyncio.timeout(60):
        await arrived.wait()
    await journeys.tell(run, "cart.drop")
    async with asyncio.timeout(60):  # until it has been heard
        while (await run.handle.fetch_history()).events[-1].event_type not in HEARD:
            await asyncio.sleep(0.05)
    mail.hold_recipients.set()
    assert (await run.handle.result()).reason == "cart.drop"
    monkeypatch.undo()
    history = await run.handle.fetch_history()
    assert any(event.event_type == EventType.EVENT_TYPE_TIMER_STARTED for event in history.events) is not before
    await _replay(journeys, run, Eager)


async def test_a_journey_that_left_its_branches_behind_replays_as_it_was(
    journeys: Runs, customer: Customer, mail: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From before branches ended with it."""

    async def left_behind(_: Trials, journey: object) -> None:
        """As it was."""

    monkeypatch.setattr(Trials, "end_beside", left_behind)
    arrived, mail.hold_recipients = asyncio.Event(), asyncio.Event()
    mail.on_recipient = lambda _: arrived.set()
    run = await journeys.start(customer.user_id, "parting", still=True)
    async with asyncio.timeout(60):
        await arrived.wait()
    await journeys.tell(run, "parting.stumble")
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    mail.hold_recipients.set()
    monkeypatch.undo()
    await _replay(journeys, run, Parting)


async def _replay(journeys: Runs, run: Run, lifecycle: type[LifecycleWorkflow[Any]]) -> None:
    replayer = Replayer(
        workflows=[lifecycle],
        workflow_runner=workflow_runner(),
        data_converter=journeys.environment.client.data_converter,
        interceptors=[OutcomeInterceptor()],
    )
    await replayer.replay_workflow(await run.handle.fetch_history())
