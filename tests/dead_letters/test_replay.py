"""A replay carries an instance on from the failed step; what had been done is not done again."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from activities.replays import Replays
from api.executions import Executions
from models.temporal.execution import Progress, StepContext
from models.temporal.system import CallbackDue, callback_id
from models.vocabulary import DeadLetterStatus, InstanceStatus, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store.consents import withdrawals
from store.instances import attempts, callbacks, instances, replays
from store.users import data_keys
from tests.dead_letters.conftest import Stage, working
from tests.dead_letters.journeys import Acts, Buggy, InARow, Mended, Patient
from tests.support.people import Customer
from tests.support.runs import Runs


@pytest.mark.parametrize("step", ["local", "outside"])
async def test_completed_steps_have_no_second_effect(played: Stage, customer: Customer, step: str) -> None:
    played.acts.failing = {step}
    run = await played.failed(customer, "in_a_row")
    letter = await played.letter(run)
    assert (letter.failed_step, letter.attempts, letter.error_type) == (step, 1, "ValueError")
    assert letter.error is not None
    assert "ada@example.com" in letter.error["error_message"]
    assert "journeys.py" in letter.error["stack_trace"]
    failed = await played.runs.context(run)

    played.acts.failing = set()
    await played.replay(letter)
    reopened = await played.runs.context(run)
    assert (reopened.status, reopened.end_time, reopened.error) == (InstanceStatus.RUNNING, None, None)
    assert await played.ended(run) is InstanceStatus.COMPLETED
    done = await played.runs.context(run)
    assert played.acts.effects == {"first": 1, "local": 1, "outside": 1}
    assert done.variables == {"first": True, "all": True}
    assert done.start_time == failed.start_time
    assert done.run_id != failed.run_id
    await played.letter(run, DeadLetterStatus.REPLAYED)


async def test_completed_siblings_have_no_second_effect_and_the_others_are_done(
    played: Stage, customer: Customer
) -> None:
    played.acts.failing = {"two"}
    played.acts.slow = {"two": 0.5, "three": 3.0}  # three is under way when two fails
    run = await played.failed(customer, "side_by_side")
    letter = await played.letter(run)
    assert letter.failed_step == "two"
    assert played.acts.effects["one"] == 1
    played.acts.failing, played.acts.slow = set(), {}
    await played.replay(letter)
    assert await played.ended(run) is InstanceStatus.COMPLETED
    assert {name: played.acts.effects[name] for name in ("before", "one", "two", "after")} == {
        "before": 1,
        "one": 1,
        "two": 1,
        "after": 1,
    }
    assert set((await played.runs.context(run)).results) == {"before", "one", "two", "three", "after"}


async def test_a_second_failure_is_the_same_letter_with_one_more_attempt_and_fresh_attempts_at_the_step(
    played: Stage, customer: Customer
) -> None:
    played.acts.failing = {"local"}
    run = await played.failed(customer, "in_a_row", max_attempts=2)
    first = await played.letter(run)
    await played.replay(first)
    second = await played.letter(run)
    assert (second.dead_letter_id, second.attempts) == (first.dead_letter_id, 2)
    assert second.run_id != first.run_id
    context = await played.runs.context(run)
    assert context.status is InstanceStatus.FAILED
    assert context.end_time is not None
    assert context.error is not None
    assert context.error["failed_step"] == "local"
    assert [each.attempt for each in context.attempts if each.step == "local"] == [1, 2, 3, 4]
    played.acts.failing = set()
    await played.replay(second)
    assert await played.ended(run) is InstanceStatus.COMPLETED
    assert played.acts.effects == {"first": 1, "local": 1, "outside": 1}


async def test_another_step_that_fails_after_a_replay_has_a_letter_of_its_own(
    played: Stage, customer: Customer
) -> None:
    played.acts.failing = {"local"}
    run = await played.failed(customer, "in_a_row")
    letter = await played.letter(run)
    played.acts.failing = {"outside"}
    await played.replay(letter)
    assert await played.ended(run) is InstanceStatus.FAILED
    async with played.runs.database.connection() as connection:
        rows = await connection.fetch("SELECT failed_step, status, attempts FROM dead_letters ORDER BY 1")
    assert [tuple(row) for row in rows] == [("local", "replayed", 1), ("outside", "open", 1)]


async def test_a_failure_that_the_journey_caught_and_raised_later_is_replayed_from_the_step_that_failed(
    played: Stage, customer: Customer
) -> None:
    played.acts.failing = {"two"}
    run = await played.failed(customer, "raises_later", rest="PT0.02S")
    letter = await played.letter(run)
    assert (letter.failed_step, letter.attempts) == ("two", 1)
    assert played.acts.effects["two"] == 0

    await played.replay(letter)  # in vain: the same dead letter, from the run that failed this time
    again = await played.letter(run)
    assert (again.dead_letter_id, again.attempts) == (letter.dead_letter_id, 2)
    assert again.run_id != letter.run_id

    played.acts.failing = set()
    await played.replay(again)
    assert await played.ended(run) is InstanceStatus.COMPLETED
    await played.letter(run, DeadLetterStatus.REPLAYED)
    done = {"before", "one", "two", "three", "round", "round_2", "round_3", "after"}
    assert played.acts.effects == dict.fromkeys(done, 1)
    context = await played.runs.context(run)
    assert done <= set(context.results)
    assert [each.attempt for each in context.attempts if each.step == "two"] == [1, 2, 3]


async def test_a_journey_with_a_bug_leaves_a_letter_and_goes_on_with_the_mended_code(
    stage: Stage, customer: Customer
) -> None:
    async with working(stage.runs, stage.acts, [Buggy]):
        run = await stage.failed(customer, "mended")
        letter = await stage.letter(run)
        assert (letter.failed_step, letter.error_type) == (None, "KeyError")
        await stage.replay(letter)
        again = await stage.letter(run)
        assert (again.dead_letter_id, again.attempts) == (letter.dead_letter_id, 2)
    stage.acts.slow = {"second": 60.0}
    async with working(stage.runs, stage.acts, [Mended]):
        await stage.replay(again)
        await stage.letter(run, DeadLetterStatus.REPLAYED)  # as soon as the journey has got past its bug
        assert (await stage.runs.context(run)).status is InstanceStatus.RUNNING
        await run.handle.terminate()
    assert stage.acts.effects == {"first": 1}


async def test_a_mended_journey_that_only_waits_has_got_past_its_bug_as_well(
    stage: Stage, customer: Customer
) -> None:
    async with working(stage.runs, stage.acts, [Buggy]):
        run = await stage.failed(customer, "mended")
        letter = await stage.letter(run)
    async with working(stage.runs, stage.acts, [Patient]):
        await stage.replay(letter)
        await stage.letter(run, DeadLetterStatus.REPLAYED)
        assert (await stage.runs.until(run, "wait_for_shop_visit")).status is InstanceStatus.RUNNING
        await run.handle.terminate()


async def test_a_letter_that_is_given_back_is_an_end_of_its_own_and_told_as_one(
    played: Stage, customer: Customer
) -> None:
    played.acts.failing = {"outside"}
    run = await played.failed(customer, "in_a_row")
    async with played.runs.database.transaction() as connection:
        key = await data_keys.require(connection, played.runs.cipher, customer.user_id)
        await callbacks.place(connection, key, run.instance_id, "https://example.com/hook")
        await connection.execute("UPDATE dead_letters SET run_id = $1", str(uuid.uuid4()))
    await played.replay(await played.letter(run))
    assert await played.ended(run) is InstanceStatus.FAILED
    due = CallbackDue(instance_id=run.instance_id, ending=1)
    told = played.runs.environment.client.get_workflow_handle(callback_id(due))
    async with asyncio.timeout(60):
        while not await _is_there(told):
            await asyncio.sleep(0.05)
    await told.terminate()


async def _is_there(handle: WorkflowHandle[Any, Any]) -> bool:
    try:
        await handle.describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return False
    return True


@pytest.mark.parametrize(
    ("event_type", "reason", "variables"),
    [("shop.visit", None, {"visited": True}), ("shop.leave", "shop.leave", {})],
)
async def test_a_wait_beside_the_failed_step_and_an_exit_hear_of_what_came_meanwhile(
    played: Stage, customer: Customer, event_type: str, reason: str | None, variables: dict[str, bool]
) -> None:
    played.acts.failing, played.acts.slow = {"beside"}, {"beside": 0.3}
    run = await played.failed(customer, "with_a_wait")
    letter = await played.letter(run)
    async with played.runs.database.transaction() as connection:
        key = await data_keys.require(connection, played.runs.cipher, customer.user_id)
        await connection.execute("SELECT ensure_events_partition(date_trunc('month', now())::date)")
        await connection.execute(
            """INSERT INTO events (event_id, user_id, event_type, timestamp, session_id, shard, generation,
                                   historical, body)
               VALUES ('e-meanwhile', $1, $3, now(), 's', 0, 1, false, $2)""",
            customer.user_id,
            key.encrypt_json("events.body", {}),
            event_type,
        )
    played.acts.failing = set()
    await played.replay(letter)
    assert await played.ended(run) is InstanceStatus.COMPLETED
    context = await played.runs.context(run)
    assert (context.variables, context.reason) == (variables, reason)


async def test_what_a_replaced_run_still_writes_is_dropped(played: Stage, customer: Customer) -> None:
    """A recording of the failed run that is carried out twice, the second time after the replay."""
    played.acts.failing = {"outside"}
    run = await played.failed(customer, "in_a_row")
    letter = await played.letter(run)
    async with played.runs.database.transaction() as connection:
        await connection.execute(
            "UPDATE instances SET status = 'running', end_time = NULL, replaced_runs = ARRAY[$1::text]",
            letter.run_id,
        )

    progress = Progress(
        instance_id=run.instance_id,
        user_id=customer.user_id,
        status=InstanceStatus.FAILED,
        current_step="outside",
    )
    context = StepContext(
        workflow_id="in_a_row",
        instance_id=run.instance_id,
        user_id=customer.user_id,
        step="outside",
        position=3,
        max_attempts=1,
    )
    async with played.runs.database.transaction() as connection:
        key = await data_keys.require(connection, played.runs.cipher, customer.user_id)
        assert not await instances.write_progress(connection, key, progress, letter.run_id)
        cipher = played.runs.cipher
        assert not (await attempts.begin_attempt(connection, cipher, context, letter.run_id))[0].known
        assert (await attempts.begin_attempt(connection, cipher, context, "another run"))[0].known


async def test_a_history_that_is_gone_leaves_the_letter_open_and_the_instance_failed(
    played: Stage, customer: Customer
) -> None:
    played.acts.failing = {"outside"}
    run = await played.failed(customer, "in_a_row")
    before = await played.runs.context(run)
    async with played.runs.database.connection() as connection:
        await connection.execute("UPDATE dead_letters SET run_id = $1", str(uuid.uuid4()))
    await played.replay(await played.letter(run))
    assert await played.ended(run) is InstanceStatus.FAILED
    assert (await played.letter(run)).attempts == 1
    assert (await played.runs.context(run)).error == before.error


async def test_a_replay_that_is_delivered_twice_is_one(played: Stage, customer: Customer, cipher: Cipher) -> None:
    """The outbox died after the reset and before it dropped its letter."""
    played.acts.failing = {"outside"}
    run = await played.failed(customer, "in_a_row")
    letter = await played.letter(run)
    played.acts.failing, played.acts.slow = set(), {"outside": 1.0}
    await played.replay(letter)
    client = played.runs.environment.client
    while (described := await run.handle.describe()).run_id == letter.run_id:
        await asyncio.sleep(0.02)
    await Replays(played.runs.database, cipher, client).carry_on(letter.dead_letter_id)
    assert await played.ended(run) is InstanceStatus.COMPLETED
    assert (await played.runs.context(run)).run_id == described.run_id
    assert played.acts.effects == {"first": 1, "local": 1, "outside": 1}
    await Replays(played.runs.database, cipher, client).carry_on(letter.dead_letter_id)
    assert (await client.get_workflow_handle(run.handle.id).describe()).run_id == described.run_id


async def test_a_replay_that_nobody_has_delivered_yet_shows_as_running(
    skipping: WorkflowEnvironment, database: Database, cipher: Cipher, customer: Customer
) -> None:
    """Temporal still says that the run has failed; the request was answered, and holds."""
    stage = Stage(Runs(skipping, database, cipher, f"undelivered-{uuid.uuid4().hex}", [InARow]), Acts())
    stage.acts.failing = {"local"}
    async with working(stage.runs, stage.acts, [InARow]):
        run = await stage.failed(customer, "in_a_row")
    await stage.replay(await stage.letter(run))
    sight = await Executions(database, cipher, skipping.client, "unused").look("in_a_row", run.instance_id)
    assert (sight.stored.status, sight.stored.error, sight.stale) == (InstanceStatus.RUNNING, None, False)
    await stage.letter(run, DeadLetterStatus.REPLAYING)


async def test_a_withdrawal_that_overtakes_a_replay_ends_the_instance_for_good(
    played: Stage, database: Database, cipher: Cipher
) -> None:
    """Temporal has only the run that has failed then, and takes its cancellation without a word."""
    customer = await Customer.new(database, cipher, Purpose.MARKETING)
    played.acts.failing = {"outside"}
    run = await played.failed(customer, "in_a_row")
    played.acts.failing = set()
    letter = await played.letter(run)
    async with database.transaction() as connection:
        await connection.execute("UPDATE instances SET purpose = 'marketing'")
        await replays.request(connection, cipher, letter.dead_letter_id)
        await connection.execute("UPDATE temporal_outbox SET due_at = now() + '1 second' WHERE kind = 'replay'")
    async with database.transaction() as connection:
        await withdrawals.end_instances(connection, [(customer.user_id, Purpose.MARKETING.value)])
    assert await played.ended(run) is InstanceStatus.CANCELLED
    assert (await played.runs.context(run)).reason == "consent_withdrawn"
    await played.letter(run, DeadLetterStatus.DISCARDED)
    assert played.acts.effects == {"first": 1, "local": 1}
