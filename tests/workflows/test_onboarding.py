"""Onboarding over days of virtual time."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import CancelledError

from models.temporal.identity import STATUS, STEP, USER, WORKFLOW
from models.vocabulary import InstanceStatus
from testing.mail import MailServer
from testing.people import Customer
from testing.runs import Runs
from testing.temporal import DAY


async def test_a_customer_who_stays_away_is_nudged_once_and_ends_at_risk(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    run = await runs.start(customer.user_id)
    outcome = await run.handle.result()

    assert (outcome.status, outcome.reason) == (InstanceStatus.COMPLETED, "no_activity")
    assert [message["Subject"] for message in mail.to(customer.email)] == [
        f"Welcome, {customer.name}",
        f"{customer.name}, shall we help you get started?",
    ]
    assert await customer.stage() == "at_risk"
    context = await runs.context(run)
    assert context.status is InstanceStatus.COMPLETED
    assert context.end_time is not None
    assert context.error is None
    assert context.variables == {"nudged": True}
    assert list(context.results) == [
        "send_welcome",
        "wait_for_first_activity",
        "send_nudge",
        "wait_after_nudge",
        "set_stage",
    ]
    assert context.results["send_welcome"]["status"] == "sent"
    assert context.results["wait_after_nudge"]["timed_out"] is True


async def test_waiting_takes_the_time_that_the_parameters_say(runs: Runs, customer: Customer) -> None:
    run = await runs.start(customer.user_id, parameters={"first_activity_within": "P10D", "nudge_within": "P20D"})
    before = await runs.environment.get_current_time(run.handle)
    await run.handle.result()
    described = await run.handle.describe()
    assert described.close_time is not None
    assert 30 * DAY <= described.close_time - before < 31 * DAY


async def test_a_first_activity_ends_the_wait_without_a_nudge(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    run = await runs.start(customer.user_id, still=True)
    await runs.until(run, "wait_for_first_activity")
    await runs.notify(run, "user.login")
    await runs.notify(run, "engagement.page_view", "event-1")
    outcome = await run.handle.result()

    assert outcome.reason == "activated"
    assert len(mail.to(customer.email)) == 1
    assert await customer.stage() == "active"
    context = await runs.context(run)
    waited = context.results["wait_for_first_activity"]
    assert (waited["event_type"], waited["event_id"]) == ("engagement.page_view", "event-1")
    assert waited["timed_out"] is False
    assert context.variables == {"nudged": False}


async def test_an_activity_after_the_nudge_counts_as_well(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    run = await runs.start(customer.user_id, still=True)
    await runs.until(run, "wait_for_first_activity")
    await runs.environment.fast_forward(run.handle, 3 * DAY)
    await runs.until(run, "wait_after_nudge")
    await runs.notify(run, "engagement.search")
    assert (await run.handle.result()).reason == "activated"
    assert len(mail.to(customer.email)) == 2


async def test_an_event_that_is_signalled_twice_ends_one_wait(runs: Runs, customer: Customer) -> None:
    run = await runs.start(customer.user_id, still=True, parameters={"first_activity_within": "P1D"})
    await runs.until(run, "wait_for_first_activity")
    await runs.notify(run, "user.login", "twice")
    await runs.notify(run, "user.login", "twice")
    await runs.environment.fast_forward(run.handle, DAY)
    context = await runs.until(run, "wait_after_nudge")
    assert context.results["wait_for_first_activity"]["timed_out"] is True
    await run.handle.terminate()


async def test_a_pinned_stage_stays(runs: Runs, customer: Customer) -> None:
    await customer.pin("prospect")
    run = await runs.start(customer.user_id)
    await run.handle.result()
    assert await customer.stage() == "prospect"
    assert (await runs.context(run)).results["set_stage"] == {"stage": "at_risk", "changed": False}


async def test_a_pause_holds_the_next_step_while_time_passes(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    run = await runs.start(customer.user_id, still=True, parameters={"first_activity_within": "P1D"})
    await runs.until(run, "wait_for_first_activity")
    await run.handle.execute_update("pause")
    assert (await runs.context(run)).status is InstanceStatus.PAUSED
    described = await run.handle.describe()
    assert described.typed_search_attributes.get(STATUS) == "paused"

    await runs.environment.fast_forward(run.handle, 5 * DAY)
    assert len(mail.to(customer.email)) == 1  # the nudge fell due, and is held

    await run.handle.execute_update("resume")
    context = await runs.until(run, "wait_after_nudge")  # it happens now, not a day later
    assert context.status is InstanceStatus.RUNNING
    assert len(mail.to(customer.email)) == 2
    await run.handle.terminate()


async def test_a_second_pause_or_resume_changes_nothing(runs: Runs, customer: Customer) -> None:
    run = await runs.start(customer.user_id, still=True)
    await runs.until(run, "wait_for_first_activity")
    for command, status in (
        ("pause", "paused"),
        ("pause", "paused"),
        ("resume", "running"),
        ("resume", "running"),
    ):
        await run.handle.execute_update(command)
        assert (await runs.context(run)).status == status
    await run.handle.terminate()


async def test_a_cancelled_instance_cleans_up_and_ends_as_cancelled(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    run = await runs.start(customer.user_id, still=True)
    await runs.until(run, "wait_for_first_activity")
    await run.handle.cancel()
    with pytest.raises(WorkflowFailureError) as ended:
        await run.handle.result()
    assert isinstance(ended.value.cause, CancelledError)
    context = await runs.context(run)
    assert context.status is InstanceStatus.CANCELLED
    assert context.end_time is not None
    assert context.error is None
    assert context.results["clean_up"] == {"messages_withdrawn": 0}
    assert len(mail.to(customer.email)) == 1
    assert await customer.stage() == "onboarding"


async def test_a_paused_instance_can_be_cancelled(runs: Runs, customer: Customer) -> None:
    run = await runs.start(customer.user_id, still=True)
    await runs.until(run, "wait_for_first_activity")
    await run.handle.execute_update("pause")
    await run.handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    assert (await runs.context(run)).status is InstanceStatus.CANCELLED


async def test_cancelling_withdraws_a_message_that_has_not_left(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    mail.refuse_recipients = "450 come back later"
    run = await runs.start(customer.user_id, still=True, max_attempts=100)
    await runs.until(run, "send_welcome")
    async with runs.database.connection() as connection:
        while not await connection.fetchval("SELECT count(*) FROM attempts WHERE ended_at IS NOT NULL"):
            await asyncio.sleep(0.02)
    await run.handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    context = await runs.context(run)
    assert context.status is InstanceStatus.CANCELLED
    assert context.results["clean_up"] == {"messages_withdrawn": 1}


async def test_an_instance_can_be_found_by_user_workflow_step_and_status(runs: Runs, customer: Customer) -> None:
    run = await runs.start(customer.user_id, still=True)
    await runs.until(run, "wait_for_first_activity")
    async with asyncio.timeout(60):  # the context is written just before Temporal learns of the step
        while (found := (await run.handle.describe()).typed_search_attributes).get(STEP) == "send_welcome":
            await asyncio.sleep(0.02)
    assert found.get(USER) == customer.user_id
    assert found.get(WORKFLOW) == "onboarding"
    assert found.get(STEP) == "wait_for_first_activity"
    assert found.get(STATUS) == "running"
    await run.handle.terminate()


async def test_instances_of_one_user_do_not_see_each_other(runs: Runs, customer: Customer) -> None:
    first = await runs.start(customer.user_id, still=True)
    second = await runs.start(customer.user_id, still=True)
    for run in (first, second):
        await runs.until(run, "wait_for_first_activity")
    await runs.notify(first, "engagement.share")
    assert (await first.handle.result()).reason == "activated"
    assert (await runs.context(second)).current_step == "wait_for_first_activity"
    assert (await runs.context(second)).variables == {}
    await second.handle.terminate()


async def test_a_wait_that_begins_during_a_pause_keeps_its_deadline(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    """The pause comes during the welcome; the wait after it falls due before the resume."""
    leave = asyncio.Event()

    async def slowly(message: object) -> None:
        await leave.wait()

    mail.answer = slowly
    run = await runs.start(customer.user_id, still=True, parameters={"first_activity_within": "P1D"})
    await runs.until(run, "send_welcome")
    await run.handle.execute_update("pause")
    leave.set()
    await runs.until(run, "wait_for_first_activity")
    await runs.environment.fast_forward(run.handle, 2 * DAY)
    assert len(mail.to(customer.email)) == 1
    await run.handle.execute_update("resume")
    await runs.until(run, "wait_after_nudge")
    assert len(mail.to(customer.email)) == 2
    await run.handle.terminate()


async def test_waits_may_be_longer_than_a_year(runs: Runs, customer: Customer) -> None:
    run = await runs.start(customer.user_id, parameters={"first_activity_within": "P400D", "nudge_within": "P53W"})
    assert (await run.handle.result()).reason == "no_activity"
