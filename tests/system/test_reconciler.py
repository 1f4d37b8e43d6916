"""The reconciler stores ends that workflows did not record, and changes no other instance."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.testing import WorkflowEnvironment

from activities.reconciler import LOST_AFTER, OVERLAP, Reconciler
from models.instances import Problem
from models.temporal.starting import start_input, start_options
from models.temporal.system import ReconcileRequest
from models.vocabulary import DeadLetterStatus, InstanceStatus, ProblemKind
from privacy.encryption import Cipher
from runtime.database import Database
from store.instances import dead_letters, transitions
from store.instances.dead_letters import Filter
from store.users import data_keys
from testing.people import Customer
from testing.runs import Run, Runs


@pytest.fixture
def reconciler(skipping: WorkflowEnvironment, database: Database, cipher: Cipher) -> Reconciler:
    return Reconciler(database, cipher, skipping.client)


async def _reconciled(reconciler: Reconciler, runs: Runs, run: Run) -> None:
    """Compare until the instance has an end, since visibility lags."""
    since = datetime.now(UTC) - timedelta(minutes=5)
    async with asyncio.timeout(60):
        while (await runs.context(run)).end_time is None:
            await reconciler.end_unrecorded(ReconcileRequest(since=since))
            await asyncio.sleep(0.05)


async def test_a_termination_is_stored_as_cancelled(
    runs: Runs, customer: Customer, reconciler: Reconciler
) -> None:
    ended = await runs.start(customer.user_id, still=True)
    unaffected = await runs.start(customer.user_id, still=True)
    for run in (ended, unaffected):
        await runs.until(run, "wait_for_first_activity")
    await ended.handle.terminate("from the Web UI")
    await _reconciled(reconciler, runs, ended)
    context = await runs.context(ended)
    assert (context.status, context.reason, context.error) == (InstanceStatus.CANCELLED, "terminated", None)
    assert (await runs.context(unaffected)).end_time is None
    async with runs.database.connection() as connection:
        assert await connection.fetchval("SELECT array_agg(DISTINCT instance_id) FROM event_waits") == [
            unaffected.instance_id
        ]
    await unaffected.handle.terminate()


async def test_a_timeout_is_stored_as_failed_and_opens_a_dead_letter(
    runs: Runs, customer: Customer, reconciler: Reconciler
) -> None:
    new = await runs.stored(customer.user_id)
    with runs.environment.with_time_skipping_disabled():
        handle = await runs.environment.client.start_workflow(
            new.workflow_id,
            start_input(new),
            task_queue=runs.task_queue,
            run_timeout=timedelta(seconds=1),
            **start_options(new, "a test"),
        )
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    run = runs.at(new.workflow_id, new.instance_id)
    await _reconciled(reconciler, runs, run)
    context = await runs.context(run)
    assert context.status is InstanceStatus.FAILED
    assert context.error is not None
    assert context.error["error_type"] == "TimedOut"
    async with runs.database.connection() as connection:
        [letter] = await dead_letters.page(
            connection, runs.cipher, Filter(instance_id=new.instance_id), before=None, limit=2
        )
    assert letter.status is DeadLetterStatus.OPEN


async def test_a_recorded_end_is_not_changed(runs: Runs, customer: Customer, reconciler: Reconciler) -> None:
    run = await runs.start(customer.user_id, parameters={"first_activity_within": "tomorrow"})
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    before = await runs.context(run)
    await asyncio.sleep(1)
    await reconciler.end_unrecorded(ReconcileRequest())
    assert await runs.context(run) == before


async def test_a_closed_run_that_a_replay_has_replaced_ends_nothing(
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
    await reconciler.end_unrecorded(ReconcileRequest())
    assert (await runs.context(run)).end_time is None


async def test_a_row_that_never_reached_temporal_fails_and_a_repeated_request_may_still_start_it(
    runs: Runs, customer: Customer, reconciler: Reconciler
) -> None:
    new = await runs.stored(customer.user_id)
    young = await runs.stored(customer.user_id)
    async with runs.database.connection() as connection:
        await connection.execute(
            "UPDATE instances SET start_time = now() - interval '2 minutes' WHERE instance_id = $1",
            new.instance_id,
        )
    await reconciler.end_unrecorded(ReconcileRequest())
    run = runs.at(new.workflow_id, new.instance_id)
    context = await runs.context(run)
    assert (context.status, context.reason) == (InstanceStatus.FAILED, "not_started")
    assert context.error is not None
    assert context.error["error_type"] == "NotStarted"
    assert (await runs.context(runs.at(young.workflow_id, young.instance_id))).end_time is None
    async with runs.database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM dead_letters") == 0

    async with runs.database.transaction() as connection:
        key = await data_keys.require(connection, runs.cipher, new.user_id)
        assert not (await transitions.insert(connection, key, new)).begun
    begun = await runs.begin(new)
    await begun.handle.result()
    assert (await runs.context(run)).status is InstanceStatus.COMPLETED


async def test_an_instance_whose_history_is_lost_fails_with_a_dead_letter(
    runs: Runs, customer: Customer, database: Database, cipher: Cipher, fresh: Client, reconciler: Reconciler
) -> None:
    lost = await runs.start(customer.user_id, still=True)
    await runs.until(lost, "wait_for_first_activity")
    done = await runs.start(customer.user_id, parameters={"first_activity_within": "PT0.1S"})
    await done.handle.result()
    finished = await runs.context(done)
    long_ago = datetime.now(UTC) - LOST_AFTER
    assert (
        await reconciler.end_unrecorded(ReconcileRequest(watching_since=long_ago))
    ).ended == 0  # Temporal has it

    elsewhere = Reconciler(database, cipher, fresh)
    first = await elsewhere.end_unrecorded(ReconcileRequest())
    assert first.watching_since is not None
    assert first.ended == 0  # it may be the wrong Temporal
    assert (await elsewhere.end_unrecorded(ReconcileRequest(watching_since=first.watching_since))).ended == 0
    assert (await elsewhere.end_unrecorded(ReconcileRequest(watching_since=long_ago))).ended == 1
    context = await runs.context(lost)
    assert (context.status, context.reason) == (InstanceStatus.FAILED, "history_lost")
    assert context.end_time is not None
    assert context.error is not None
    assert (context.error["error_type"], context.error["failed_step"]) == ("history_lost", None)
    assert "Replay its dead letter" in context.error["error_message"]
    assert context.problem == Problem(ProblemKind.HISTORY_LOST, context.end_time)
    assert await runs.context(done) == finished
    async with database.connection() as connection:
        [letter] = await dead_letters.page(connection, cipher, Filter(), before=None, limit=2)
        assert await connection.fetchval("SELECT count(*) FROM event_waits") > 0  # a replay needs them
    assert (letter.instance_id, letter.error_type, letter.status) == (
        lost.instance_id,
        "history_lost",
        DeadLetterStatus.OPEN,
    )
    await lost.handle.terminate()


async def test_the_search_for_lost_histories_takes_instances_in_turn(
    runs: Runs,
    customer: Customer,
    database: Database,
    cipher: Cipher,
    fresh: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("activities.reconciler.MOST_LOOKUPS", 2)
    started = [await runs.stored(customer.user_id) for _ in range(5)]
    async with database.connection() as connection:
        await connection.execute("UPDATE instances SET run_id = instance_id")
    elsewhere, after, ended = Reconciler(database, cipher, fresh), "", []
    for _ in range(3):
        began = datetime.now(UTC)
        request = ReconcileRequest(since=began, watching_since=began - LOST_AFTER, after=after, swept=True)
        result = await elsewhere.end_unrecorded(request)
        after = result.after
        ended.append(result.ended)
    assert (ended, after) == ([2, 2, 1], "")
    assert {(await runs.context(runs.at(each.workflow_id, each.instance_id))).reason for each in started} == {
        "history_lost"
    }


async def test_a_run_that_visibility_showed_late_is_found_by_the_next_comparison(
    runs: Runs, customer: Customer, reconciler: Reconciler
) -> None:
    run = await runs.start(customer.user_id, still=True)
    await runs.until(run, "wait_for_first_activity")
    await run.handle.terminate()
    await asyncio.sleep(1)
    began = datetime.now(UTC)
    blind = await reconciler.end_unrecorded(ReconcileRequest(since=began + timedelta(hours=1)))  # it lists nothing
    assert blind.until is not None
    assert began - OVERLAP <= blind.until <= datetime.now(UTC) - OVERLAP
    assert (await runs.context(run)).end_time is None
    async with asyncio.timeout(30):
        while (await runs.context(run)).end_time is None:
            await reconciler.end_unrecorded(ReconcileRequest(since=blind.until))
