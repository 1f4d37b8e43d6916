"""Journeys with branches: an exit, a failure or a cancellation ends all of them."""

from __future__ import annotations

import asyncio
import contextlib
from email.message import Message

import pytest
from temporalio.client import WorkflowFailureError

from models.vocabulary import InstanceStatus, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
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


class Mailbox:
    """Holds the welcome until it is released; answers the nudge with an error."""

    def __init__(self, mail: MailServer, error: str) -> None:
        self.arrived, self.release = asyncio.Event(), asyncio.Event()
        self._error = error
        mail.answer = self._answer

    async def _answer(self, message: Message) -> str | None:
        if "started" in message["Subject"]:
            return self._error
        self.arrived.set()
        await self.release.wait()
        return None


async def test_an_exit_ends_every_branch(journeys: Runs, customer: Customer, mail: MailServer) -> None:
    run = await journeys.start(customer.user_id, "twins", still=True)
    await journeys.until(run, "sleep_right")
    await journeys.notify(run, "twins.apart")
    assert (await run.handle.result()).reason == "apart"
    assert mail.received == []


async def test_branches_that_wait_at_the_same_time_register_a_wait_each(
    journeys: Runs, customer: Customer, log: EventLog
) -> None:
    run = await journeys.start(customer.user_id, "twins", still=True)
    await journeys.until(run, "sleep_right")
    await journeys.environment.fast_forward(run.handle, DAY)
    async with journeys.database.connection() as connection, asyncio.timeout(60):
        while True:
            rows = await connection.fetch("SELECT step FROM event_waits WHERE step LIKE 'wait%' ORDER BY step")
            if len(rows) == 2:
                break
            await asyncio.sleep(0.02)
    assert [row["step"] for row in rows] == ["wait_left", "wait_right"]
    assert await log.project(await log.store("twins.meet")) == 2
    await run.handle.terminate()


@pytest.mark.parametrize(("event_type", "status"), [("parting.now", "completed"), ("parting.fail", "failed")])
async def test_a_step_of_another_branch_ends_before_at_exit_and_before_the_end(
    journeys: Runs, customer: Customer, mail: MailServer, event_type: str, status: str
) -> None:
    arrived, mail.hold_recipients = asyncio.Event(), asyncio.Event()
    mail.on_recipient = lambda _: arrived.set()
    run = await journeys.start(customer.user_id, "parting", still=True)
    async with asyncio.timeout(60):
        await arrived.wait()
    await journeys.notify(run, event_type)
    await journeys.until_handled(run)
    assert set((await journeys.context(run)).results) <= {"fail"}
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


@pytest.mark.parametrize("grouped", [False, True], ids=["gather", "TaskGroup"])
async def test_an_exit_ends_a_wait_at_once_a_step_after_its_attempt_and_gives_up_one_that_keeps_failing(
    journeys: Runs, customer: Customer, mail: MailServer, grouped: bool
) -> None:
    mailbox = Mailbox(mail, "450 try later")
    run = await journeys.start(
        customer.user_id, "branches", max_attempts=100, still=True, parameters={"grouped": grouped}
    )
    await mailbox.arrived.wait()
    await journeys.until_tried(run, "send_onboarding_nudge", 2)
    await journeys.notify(run, "branches.stop")
    await journeys.until_handled(run)
    mailbox.release.set()
    await journeys.until_tried(run, "send_welcome", 1)
    assert (await journeys.context(run)).status is InstanceStatus.RUNNING
    await journeys.environment.fast_forward(run.handle, OUTSIDE.attempt_timeout * 2)
    assert (await run.handle.result()).reason == "stopped"

    context = await journeys.context(run)
    assert set(context.results) == {"send_welcome", "emit_branches_stopped"}
    assert context.variables == {"welcome": "sent", "wait": "left", "finally": True}
    assert (context.error, len(mail.received)) == (None, 1)
    (left,) = [each.started_at for each in context.attempts if each.step == "emit_branches_stopped"]
    ends = [each.ended_at for each in context.attempts if each.step.startswith("send")]
    assert [each for each in ends if each is None or each > left] == []
    await journeys.replay(run)


@pytest.mark.parametrize("grouped", [False, True], ids=["gather", "TaskGroup"])
async def test_temporal_s_cancellation_ends_branches_without_waiting_for_attempts(
    journeys: Runs, customer: Customer, mail: MailServer, grouped: bool
) -> None:
    mailbox = Mailbox(mail, "450 try later")
    run = await journeys.start(
        customer.user_id, "branches", max_attempts=100, still=True, parameters={"grouped": grouped}
    )
    await mailbox.arrived.wait()
    await journeys.until_tried(run, "send_onboarding_nudge", 1)
    await run.handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    context = await journeys.context(run)
    assert context.status is InstanceStatus.CANCELLED
    assert set(context.results) == {"clean_up"}
    assert context.variables == {"wait": "left", "finally": True}
    mailbox.release.set()
    await journeys.replay(run)


async def test_a_step_that_fails_in_a_task_group_is_the_instance_s_failure_and_others_end_their_attempts(
    journeys: Runs, customer: Customer, mail: MailServer
) -> None:
    mailbox = Mailbox(mail, "550 no such mailbox")
    run = await journeys.start(customer.user_id, "group", still=True)
    await mailbox.arrived.wait()
    await journeys.notify(run, "group.fail")
    await journeys.until_tried(run, "send_onboarding_nudge", 1)
    assert (await journeys.context(run)).status is InstanceStatus.RUNNING
    mailbox.release.set()
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    context = await journeys.context(run)
    assert context.status is InstanceStatus.FAILED
    assert context.error is not None
    assert (context.error["error_type"], context.error["failed_step"]) == (
        "MessageRejectedError",
        "send_onboarding_nudge",
    )
    assert set(context.results) == {"wait_for_group_fail", "send_welcome"}
    for _ in range(5):
        await journeys.replay(run)
