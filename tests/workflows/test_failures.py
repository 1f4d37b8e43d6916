"""Steps that fail, and journeys with a bug."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowFailureError

from models.vocabulary import InstanceStatus
from privacy.encryption import Cipher
from store.users import data_keys
from testing.mail import MailServer
from testing.people import Customer
from testing.runs import Runs
from testing.temporal import DAY
from tests.support.locks import until_blocked
from workflows.steps import failure_of


async def test_a_step_that_recovers_leaves_its_attempts_and_no_error(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    answers = iter(["451 not now", None])

    async def once_refused(message: object) -> str | None:
        return next(answers, None)

    mail.answer = once_refused
    run = await runs.start(customer.user_id)
    await run.handle.result()
    context = await runs.context(run)
    attempts = [attempt for attempt in context.attempts if attempt.step == "send_welcome"]
    assert [attempt.attempt for attempt in attempts] == [1, 2]
    assert attempts[0].error_type == "SMTPDataError"
    assert attempts[0].started_at < attempts[0].ended_at < attempts[1].started_at  # type: ignore[operator]
    assert attempts[1].error_type is None
    assert context.error is None
    assert len(mail.to(customer.email)) == 2  # the welcome once, and the nudge


async def test_a_step_that_fails_for_good_ends_the_instance_as_failed(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    mail.refuse_recipients = "450 come back later"
    run = await runs.start(customer.user_id, max_attempts=2)
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    context = await runs.context(run)
    assert context.status is InstanceStatus.FAILED
    assert context.end_time is not None
    assert [attempt.attempt for attempt in context.attempts] == [1, 2]
    assert context.error is not None
    assert context.error["failed_step"] == "send_welcome"
    assert context.error["error_type"] == "SMTPRecipientRefused"
    assert "delivery/smtp.py" in context.error["stack_trace"]
    assert mail.received == []


async def test_a_permanent_rejection_is_not_retried(runs: Runs, customer: Customer, mail: MailServer) -> None:
    mail.refuse_recipients = "550 no such mailbox"
    run = await runs.start(customer.user_id)
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    context = await runs.context(run)
    assert len(context.attempts) == 1
    assert context.error is not None
    assert context.error["error_type"] == "MessageRejectedError"


async def test_parameters_that_do_not_fit_fail_the_instance_and_do_not_hang(
    runs: Runs, customer: Customer
) -> None:
    run = await runs.start(customer.user_id, parameters={"first_activity_within": "tomorrow"})
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    context = await runs.context(run)
    assert context.status is InstanceStatus.FAILED
    assert context.error is not None
    assert context.error["error_type"] == "ValidationError"
    assert context.error["failed_step"] is None


async def rows(runs: Runs, *tables: str) -> list[int]:
    """Row counts of tables."""
    async with runs.database.connection() as connection:
        return [await connection.fetchval(f"SELECT count(*) FROM {table}") for table in tables]


@pytest.mark.parametrize("workflow_id", ["onboarding", "churn_prevention"])
async def test_an_instance_that_was_taken_back_ends_before_any_effect(
    runs: Runs, customer: Customer, mail: MailServer, workflow_id: str
) -> None:
    """If it begins with a step, and if it begins with a wait."""
    run = await runs.start(customer.user_id, workflow_id, stored=False)
    with pytest.raises(WorkflowFailureError) as ended:
        await run.handle.result()
    assert failure_of(ended.value.cause).error_type == "InstanceUnknown"
    history = await run.handle.fetch_history()
    assert EventType.EVENT_TYPE_TIMER_STARTED not in {event.event_type for event in history.events}
    assert mail.received == []
    assert await rows(runs, "instances", "steps", "attempts", "event_waits", "dead_letters") == [0] * 5


@pytest.mark.slow
async def test_the_end_writes_the_results_of_a_cancelled_recording(runs: Runs, customer: Customer) -> None:
    run = await runs.start(customer.user_id, "trial_conversion", still=True)
    await runs.until(run, "wait_for_first_use")
    async with runs.database.transaction() as holding, runs.database.connection() as looking:
        await holding.execute("SELECT FROM instances FOR UPDATE")
        await runs.notify(run, "engagement.feature_click")
        await until_blocked(runs.database, 1)
        await run.handle.cancel()
        async with asyncio.timeout(60):  # until the clean-up step waits in its place
            while not await looking.fetchval(
                "SELECT true FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%WITH key AS%'"
            ):
                await asyncio.sleep(0.05)
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    context = await runs.context(run)
    assert context.status is InstanceStatus.CANCELLED
    assert context.results["wait_for_first_use"]["event_type"] == "engagement.feature_click"


async def test_a_run_that_a_replay_replaced_ends_and_writes_nothing(runs: Runs, customer: Customer) -> None:
    run = await runs.start(customer.user_id, "win_back", still=True)
    context = await runs.until(run, "wait_before_whats_new")
    async with runs.database.connection() as connection:
        await connection.execute("UPDATE instances SET replaced_runs = ARRAY[run_id], run_id = 'the next'")
    await runs.environment.fast_forward(run.handle, 60 * DAY)
    with pytest.raises(WorkflowFailureError) as ended:
        await run.handle.result()
    assert failure_of(ended.value.cause).error_type == "InstanceUnknown"
    after = await runs.context(run)
    assert (after.status, after.current_step, after.end_time) == (context.status, context.current_step, None)
    assert await rows(runs, "steps", "dead_letters") == [0, 0]


@pytest.mark.parametrize("address", ["zoe@exämple.com", "üni@example.com"])
async def test_addresses_beyond_ascii_get_their_messages(
    runs: Runs, customer: Customer, mail: MailServer, cipher: Cipher, address: str
) -> None:
    async with runs.database.transaction() as connection:
        key = await data_keys.require(connection, cipher, customer.user_id)
        await connection.execute(
            "UPDATE users SET email = $2 WHERE user_id = $1",
            customer.user_id,
            key.encrypt_json("users.email", address),
        )
    run = await runs.start(customer.user_id)
    assert (await run.handle.result()).status is InstanceStatus.COMPLETED
    assert len(mail.received) == 2
