"""What ends a run from outside reaches the stored context, and nothing else is touched."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.testing import WorkflowEnvironment

from activities.reconciler import LOST_AFTER, Reconciler
from models.temporal.identity import temporal_workflow_id
from models.temporal.starting import start_message, start_options
from models.temporal.system import ReconcileRequest
from models.vocabulary import DeadLetterStatus, InstanceStatus
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.temporal import EncryptedPayloads, data_converter
from store.instances import dead_letters, instances
from store.instances.dead_letters import Filter
from tests.support.builders import user
from tests.support.little_stack import LittleStack
from tests.support.people import Customer
from tests.support.runs import Run, Runs


@pytest.fixture
def reconciler(skipping: WorkflowEnvironment, database: Database, cipher: Cipher) -> Reconciler:
    return Reconciler(database, cipher, skipping.client)


async def _looked(reconciler: Reconciler, runs: Runs, run: Run) -> None:
    """Look until the instance has an end: visibility lags."""
    since = datetime.now(UTC) - timedelta(minutes=5)
    async with asyncio.timeout(60):
        while (await runs.context(run)).end_time is None:
            await reconciler.look(ReconcileRequest(since=since))
            await asyncio.sleep(0.05)


async def test_a_termination_is_stored_as_cancelled(
    runs: Runs, customer: Customer, reconciler: Reconciler
) -> None:
    ended = await runs.start(customer.user_id, still=True)
    going_on = await runs.start(customer.user_id, still=True)
    for run in (ended, going_on):
        await runs.until(run, "wait_for_first_activity")
    await ended.handle.terminate("from the Web UI")
    await _looked(reconciler, runs, ended)
    context = await runs.context(ended)
    assert (context.status, context.reason, context.error) == (InstanceStatus.CANCELLED, "terminated", None)
    assert (await runs.context(going_on)).end_time is None
    async with runs.database.connection() as connection:
        assert await connection.fetchval("SELECT array_agg(DISTINCT instance_id) FROM event_waits") == [
            going_on.instance_id
        ]
    await going_on.handle.terminate()


async def test_a_time_out_is_stored_as_failed_and_leaves_a_dead_letter(
    runs: Runs, customer: Customer, reconciler: Reconciler
) -> None:
    new = await runs.stored(customer.user_id)
    message = start_message(new.instance_id, new.user_id, new.max_attempts, new.parameters)
    with runs.environment.with_time_skipping_disabled():
        handle = await runs.environment.client.start_workflow(
            new.workflow_id,
            message,
            task_queue=runs.task_queue,
            run_timeout=timedelta(seconds=1),
            **start_options(new.workflow_id, message, "a test"),
        )
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    run = runs.at(new.workflow_id, new.instance_id)
    await _looked(reconciler, runs, run)
    context = await runs.context(run)
    assert context.status is InstanceStatus.FAILED
    assert context.error is not None
    assert context.error["error_type"] == "TimedOut"
    async with runs.database.connection() as connection:
        [letter] = await dead_letters.page(
            connection, runs.cipher, Filter(instance_id=new.instance_id), before=None, limit=2
        )
    assert letter.status is DeadLetterStatus.OPEN


async def test_an_end_that_was_recorded_stays_as_it_is(
    runs: Runs, customer: Customer, reconciler: Reconciler
) -> None:
    run = await runs.start(customer.user_id, parameters={"first_activity_within": "tomorrow"})
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    before = await runs.context(run)
    await asyncio.sleep(1)
    await reconciler.look(ReconcileRequest())
    assert await runs.context(run) == before


async def test_the_closed_run_that_a_replay_has_replaced_ends_nothing(
    runs: Runs, customer: Customer, reconciler: Reconciler
) -> None:
    run = await runs.start(customer.user_id, parameters={"first_activity_within": "tomorrow"})
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    async with runs.database.connection() as connection:
        await connection.execute(
            "UPDATE instances SET end_time = NULL, status = 'running', replaced_runs = ARRAY[run_id]"
        )
    await asyncio.sleep(1)
    await reconciler.look(ReconcileRequest())
    assert (await runs.context(run)).end_time is None


async def test_a_row_that_temporal_was_never_told_of_fails_and_may_still_be_started_by_its_repeated_request(
    runs: Runs, customer: Customer, reconciler: Reconciler
) -> None:
    new = await runs.stored(customer.user_id)
    young = await runs.stored(customer.user_id)
    async with runs.database.connection() as connection:
        await connection.execute(
            "UPDATE instances SET start_time = now() - interval '2 minutes' WHERE instance_id = $1",
            new.instance_id,
        )
    await reconciler.look(ReconcileRequest())
    run = runs.at(new.workflow_id, new.instance_id)
    context = await runs.context(run)
    assert (context.status, context.reason) == (InstanceStatus.FAILED, "not_started")
    assert context.error is not None
    assert context.error["error_type"] == "NotStarted"
    assert (await runs.context(runs.at(young.workflow_id, young.instance_id))).end_time is None
    async with runs.database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM dead_letters") == 0

    async with runs.database.transaction() as connection:
        admission = await instances.eligibility(
            connection, runs.cipher, new.workflow_id, new.user_id, purpose=None
        )
        placed = await instances.insert(connection, admission.key, new)
    assert not placed.begun
    begun = await runs.begin(new)
    await begun.handle.result()
    assert (await runs.context(run)).status is InstanceStatus.COMPLETED


async def test_an_instance_whose_history_is_lost_fails_with_the_reason_once_that_is_certain(
    runs: Runs, customer: Customer, database: Database, cipher: Cipher, fresh: Client, reconciler: Reconciler
) -> None:
    lost = await runs.start(customer.user_id, still=True)
    await runs.until(lost, "wait_for_first_activity")
    done = await runs.start(customer.user_id, parameters={"first_activity_within": "PT0.1S"})
    await done.handle.result()
    finished = await runs.context(done)
    long_ago = datetime.now(UTC) - LOST_AFTER
    assert (await reconciler.look(ReconcileRequest(watching_since=long_ago))).ended == 0  # Temporal has it

    forgetful = Reconciler(database, cipher, fresh)
    first = await forgetful.look(ReconcileRequest())
    assert first.watching_since is not None
    assert first.ended == 0  # it may be the wrong Temporal
    assert (await forgetful.look(ReconcileRequest(watching_since=first.watching_since))).ended == 0
    assert (await forgetful.look(ReconcileRequest(watching_since=long_ago))).ended == 1
    context = await runs.context(lost)
    assert (context.status, context.reason) == (InstanceStatus.FAILED, "history_lost")
    assert context.end_time is not None
    assert context.error is not None
    assert (context.error["error_type"], context.error["failed_step"]) == (
        "HistoryLost",
        "wait_for_first_activity",
    )
    assert "execute the workflow again" in context.error["error_message"]
    assert await runs.context(done) == finished
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM dead_letters") == 0  # nothing could replay it
        assert await connection.fetchval("SELECT count(*) FROM event_waits") == 0
    await lost.handle.terminate()


async def test_lost_histories_are_asked_for_in_turn(
    runs: Runs,
    customer: Customer,
    database: Database,
    cipher: Cipher,
    fresh: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("activities.reconciler.ASKED_FOR", 2)
    started = [await runs.stored(customer.user_id) for _ in range(5)]
    async with database.connection() as connection:
        await connection.execute("UPDATE instances SET run_id = instance_id")
    forgetful, after, ended = Reconciler(database, cipher, fresh), "", []
    for _ in range(3):
        looked = await forgetful.look(ReconcileRequest(watching_since=datetime.now(UTC) - LOST_AFTER, after=after))
        after = looked.after
        ended.append(looked.ended)
    assert (ended, after) == ([2, 2, 1], "")
    assert {(await runs.context(runs.at(each.workflow_id, each.instance_id))).reason for each in started} == {
        "history_lost"
    }


@pytest.mark.slow
async def test_on_a_running_stack_a_termination_shows_in_the_list_within_a_minute(
    two: list[httpx.AsyncClient], stack: LittleStack, codec: EncryptedPayloads, database: Database
) -> None:
    await two[0].post("/users", json=user())
    path = (await two[0].post("/workflows/onboarding/execute", json={"user_id": "u-1"})).headers["location"]
    instance_id = path.rpartition("/")[2]
    client = await Client.connect(stack.temporal.address, data_converter=data_converter(codec))
    await client.get_workflow_handle(temporal_workflow_id("onboarding", instance_id)).terminate()
    async with asyncio.timeout(60), database.connection() as connection:
        while await connection.fetchval("SELECT end_time IS NULL FROM instances"):
            await asyncio.sleep(0.1)
    listed = (await two[0].get("/workflows/onboarding/instances")).json()["data"]
    assert [(each["instance_id"], each["status"]) for each in listed] == [(instance_id, "cancelled")]
