"""A journey that starts another workflow for its customer: once, and under that workflow's own conditions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from activities.starts import Starts
from models.temporal.execution import NewStart, Started, StepContext
from models.vocabulary import InstanceStatus, NotStarted, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from testing.people import Customer
from testing.runs import Runs
from tests.support.choosing import CHOOSING, Reader
from worker import build_worker
from workflows.catalog import find

STARTABLES = {"reader": (Reader.definition.startable, Reader.definition.parameters)}


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    return await Customer.new(database, cipher, Purpose.MARKETING)


@pytest.fixture
async def opening(
    skipping: WorkflowEnvironment, database: Database, cipher: Cipher, worker_settings: Settings
) -> AsyncIterator[Runs]:
    async with build_worker(skipping.client, worker_settings, database, cipher, lifecycles=CHOOSING):
        yield Runs(skipping, database, cipher, worker_settings.task_queue, CHOOSING)


async def test_the_other_workflow_runs_for_the_same_customer_with_its_parameters(
    opening: Runs, customer: Customer
) -> None:
    run = await opening.start(customer.user_id, "opener")
    assert (await run.handle.result()).reason == "started"
    result = (await opening.context(run)).results["start_reader"]
    other = opening.at("reader", result["instance_id"])
    await other.handle.result()
    context = await opening.context(other)
    assert (context.status, context.user_id) == (InstanceStatus.COMPLETED, customer.user_id)
    assert context.parameters == {"patience": "PT1H", "plan": "pro"}
    await opening.replay(run)


async def test_a_refused_start_is_a_result_with_its_reason_and_the_journey_continues(
    opening: Runs, customer: Customer
) -> None:
    await customer.withdraw(Purpose.MARKETING)
    run = await opening.start(customer.user_id, "opener")
    assert (await run.handle.result()).reason == "consent_required"
    assert (await opening.context(run)).results["start_reader"] == {
        "started": False,
        "instance_id": None,
        "reason": "consent_required",
    }
    assert await instances(opening.database, "reader") == 0


async def test_invalid_parameters_fail_the_step_at_once_without_their_values(
    opening: Runs, customer: Customer
) -> None:
    run = await opening.start(customer.user_id, "opener", parameters={"patience": "secret"})
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    [attempt] = (await opening.context(run)).attempts
    assert (attempt.error_type, attempt.error_message) == (
        "InvalidParameters",
        "'reader' can't start with these parameters: /parameters/patience",
    )


async def test_an_attempt_that_is_repeated_after_its_commit_starts_the_same_instance(
    opening: Runs, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker died after the row's commit and before Temporal had the start, and then after that."""

    async def die(*_: Any) -> None:
        raise ConnectionAbortedError

    client, queue = opening.environment.client, opening.task_queue
    activity = Starts(opening.database, opening.cipher, client, queue, STARTABLES)
    context = StepContext(
        workflow_id="opener", instance_id="i-1", user_id=customer.user_id, step="s", position=1, max_attempts=3
    )
    new = NewStart(workflow_id="reader", context=context)
    monkeypatch.setattr("activities.starts.start_instance", die)
    with pytest.raises(ConnectionAbortedError):
        await activity.start(new)
    monkeypatch.undo()
    first, second = await activity.start(new), await activity.start(new)
    assert first == second == Started(started=True, instance_id=context.idempotency_key)
    await opening.at("reader", context.idempotency_key).handle.result()
    assert await instances(opening.database, "reader") == 1


async def test_a_workflow_with_a_key_starts_once_for_a_key_also_from_two_steps(
    opening: Runs, customer: Customer
) -> None:
    """A repeated attempt finds its own instance, and no other one's key."""
    definition = find("dunning")
    startables = {"dunning": (definition.startable, definition.parameters)}
    activity = Starts(opening.database, opening.cipher, opening.environment.client, "no worker", startables)

    def step(name: str, invoice_id: str | None) -> NewStart:
        context = StepContext(
            workflow_id="opener",
            instance_id="i-1",
            user_id=customer.user_id,
            step=name,
            position=1,
            max_attempts=3,
        )
        parameters = {"invoice_id": invoice_id} if invoice_id else {}
        return NewStart(workflow_id="dunning", parameters=parameters, context=context)

    first = await activity.start(step("first", "in-1"))
    assert first.started
    assert await activity.start(step("first", "in-1")) == first
    assert await activity.start(step("second", "in-1")) == Started(
        started=False, reason=NotStarted.ALREADY_RUNNING
    )
    with pytest.raises(ApplicationError, match="/parameters/invoice_id") as caught:
        await activity.start(step("third", None))
    assert caught.value.non_retryable
    assert first.instance_id is not None
    await opening.at("dunning", first.instance_id).handle.terminate()


async def test_a_disabled_workflow_and_a_closed_account_are_reasons_too(opening: Runs, customer: Customer) -> None:
    activity = Starts(opening.database, opening.cipher, opening.environment.client, "none", STARTABLES)
    context = StepContext(
        workflow_id="opener", instance_id="i-1", user_id=customer.user_id, step="s", position=1, max_attempts=3
    )
    new = NewStart(workflow_id="reader", context=context)
    async with opening.database.connection() as connection:
        await connection.execute("INSERT INTO workflow_settings (workflow_id, enabled) VALUES ('reader', false)")
        assert (await activity.start(new)).reason is NotStarted.DISABLED
        await connection.execute("UPDATE users SET account_status = 'closed'")
        assert (await activity.start(new)).reason is NotStarted.ACCOUNT_CLOSED


async def instances(database: Database, workflow_id: str) -> int:
    async with database.connection() as connection:
        return int(await connection.fetchval("SELECT count(*) FROM instances WHERE workflow_id = $1", workflow_id))
