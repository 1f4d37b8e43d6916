"""Steps that fail, and journeys with a bug."""

from __future__ import annotations

import pytest
from temporalio.client import WorkflowFailureError

from models.vocabulary import InstanceStatus
from privacy.sealing import Sealer
from store import data_keys
from tests.support.mail import MailServer
from tests.support.people import Customer
from tests.support.runs import Runs


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
    assert "transport.py" in context.error["stack_trace"]
    assert mail.received == []


async def test_a_permanent_refusal_is_not_tried_again(runs: Runs, customer: Customer, mail: MailServer) -> None:
    mail.refuse_recipients = "550 no such mailbox"
    run = await runs.start(customer.user_id)
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    context = await runs.context(run)
    assert len(context.attempts) == 1
    assert context.error is not None
    assert context.error["error_type"] == "MessageRefused"


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


async def test_an_instance_that_was_taken_back_ends_before_any_effect(
    runs: Runs, customer: Customer, mail: MailServer
) -> None:
    run = await runs.start(customer.user_id, stored=False)
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    assert mail.received == []


@pytest.mark.parametrize("address", ["zoe@exämple.com", "üni@example.com"])
async def test_addresses_beyond_ascii_get_their_messages(
    runs: Runs, customer: Customer, mail: MailServer, sealer: Sealer, address: str
) -> None:
    async with runs.database.transaction() as connection:
        key = await data_keys.require(connection, sealer, customer.user_id)
        await connection.execute(
            "UPDATE users SET email = $2 WHERE user_id = $1",
            customer.user_id,
            key.seal_json("users.email", address),
        )
    run = await runs.start(customer.user_id)
    assert (await run.handle.result()).status is InstanceStatus.COMPLETED
    assert len(mail.received) == 2
