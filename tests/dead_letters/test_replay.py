"""A replay runs an instance again from its failed step; completed steps have no second effect."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from api.instances import Instances
from delivery.signatures import new_secret
from models.temporal.execution import Progress, StepContext
from models.temporal.system import CallbackDue, callback_id
from models.vocabulary import DeadLetterStatus, InstanceStatus, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store import outbox
from store.connection import Connection
from store.instances import attempts, callbacks, replays, terminal, transitions
from store.users import data_keys
from testing.people import Customer
from testing.runs import Runs
from tests.dead_letters.conftest import Stage, working
from tests.dead_letters.journeys import Buggy, Effects, Fixed, FixedWithAWait, InARow

ROUNDS = 4


@pytest.mark.parametrize("step", ["local", "outside"])
async def test_completed_steps_have_no_second_effect(served: Stage, customer: Customer, step: str) -> None:
    served.effects.failing = {step}
    run = await served.failed(customer, "in_a_row")
    letter = await served.dead_letter(run)
    assert (letter.failed_step, letter.attempts, letter.error_type) == (step, 1, "ValueError")
    assert letter.error is not None
    assert "ada@example.com" in letter.error["error_message"]
    assert "journeys.py" in letter.error["stack_trace"]
    failed = await served.runs.context(run)

    served.effects.failing = set()
    await served.replay(letter)
    reopened = await served.runs.context(run)
    assert (reopened.status, reopened.end_time, reopened.error) == (InstanceStatus.RUNNING, None, None)
    assert await served.ended(run) is InstanceStatus.COMPLETED
    done = await served.runs.context(run)
    assert served.effects.counts == {"first": 1, "local": 1, "outside": 1}
    assert done.variables == {"first": True, "all": True}
    assert done.start_time == failed.start_time
    assert done.run_id != failed.run_id
    await served.dead_letter(run, DeadLetterStatus.REPLAYED)


async def test_completed_parallel_steps_have_no_second_effect_and_the_others_run(
    served: Stage, customer: Customer
) -> None:
    served.effects.failing = {"two"}
    served.effects.slow = {"two": 0.5, "three": 3.0}  # three is running when two fails
    run = await served.failed(customer, "side_by_side")
    letter = await served.dead_letter(run)
    assert letter.failed_step == "two"
    assert served.effects.counts["one"] == 1
    served.effects.failing, served.effects.slow = set(), {}
    await served.replay(letter)
    assert await served.ended(run) is InstanceStatus.COMPLETED
    assert {name: served.effects.counts[name] for name in ("before", "one", "two", "after")} == {
        "before": 1,
        "one": 1,
        "two": 1,
        "after": 1,
    }
    assert set((await served.runs.context(run)).results) == {"before", "one", "two", "three", "after"}


async def test_a_failure_that_the_journey_caught_and_raised_later_is_replayed_from_its_step(
    served: Stage, customer: Customer
) -> None:
    served.effects.failing = {"two"}
    run = await served.failed(customer, "catches_failures", rounds=ROUNDS, rest="PT0.02S")
    letter = await served.dead_letter(run)
    assert (letter.failed_step, letter.attempts) == ("two", 1)
    assert served.effects.counts["two"] == 0

    await served.replay(letter)
    again = await served.dead_letter(run)
    assert (again.dead_letter_id, again.attempts) == (letter.dead_letter_id, 2)
    assert again.run_id != letter.run_id

    served.effects.failing = set()
    await served.replay(again)
    assert await served.ended(run) is InstanceStatus.COMPLETED
    await served.dead_letter(run, DeadLetterStatus.REPLAYED)
    rounds = ["round", *(f"round_{number}" for number in range(2, ROUNDS + 1))]
    assert served.effects.counts == dict.fromkeys(("before", "one", "two", "three", *rounds, "after"), 1)
    context = await served.runs.context(run)
    assert {"before", "one", "two", "three", *rounds, "after"} <= set(context.results)
    assert [each.attempt for each in context.attempts if each.step == "two"] == [1, 2, 3]


async def test_a_second_failure_opens_the_same_dead_letter_and_the_step_has_all_attempts_again(
    served: Stage, customer: Customer
) -> None:
    served.effects.failing = {"local"}
    run = await served.failed(customer, "in_a_row", max_attempts=2)
    first = await served.dead_letter(run)
    await served.replay(first)
    second = await served.dead_letter(run)
    assert (second.dead_letter_id, second.attempts) == (first.dead_letter_id, 2)
    assert second.run_id != first.run_id
    context = await served.runs.context(run)
    assert context.status is InstanceStatus.FAILED
    assert context.end_time is not None
    assert context.error is not None
    assert context.error["failed_step"] == "local"
    assert [each.attempt for each in context.attempts if each.step == "local"] == [1, 2, 3, 4]
    served.effects.failing = set()
    await served.replay(second)
    assert await served.ended(run) is InstanceStatus.COMPLETED
    assert served.effects.counts == {"first": 1, "local": 1, "outside": 1}


async def test_another_step_that_fails_after_a_replay_opens_its_own_dead_letter(
    served: Stage, customer: Customer
) -> None:
    served.effects.failing = {"local"}
    run = await served.failed(customer, "in_a_row")
    letter = await served.dead_letter(run)
    served.effects.failing = {"outside"}
    await served.replay(letter)
    assert await served.ended(run) is InstanceStatus.FAILED
    async with served.runs.database.connection() as connection:
        rows = await connection.fetch("SELECT failed_step, status, attempts FROM dead_letters ORDER BY 1")
    assert [tuple(row) for row in rows] == [("local", "replayed", 1), ("outside", "open", 1)]


async def test_a_replay_runs_the_fixed_code_of_a_journey_that_raised(stage: Stage, customer: Customer) -> None:
    async with working(stage.runs, stage.effects, [Buggy]):
        run = await stage.failed(customer, "fixed")
        letter = await stage.dead_letter(run)
        assert (letter.failed_step, letter.error_type) == (None, "KeyError")
        await stage.replay(letter)
        again = await stage.dead_letter(run)
        assert (again.dead_letter_id, again.attempts) == (letter.dead_letter_id, 2)
    stage.effects.slow = {"second": 60.0}
    async with working(stage.runs, stage.effects, [Fixed]):
        await stage.replay(again)
        await stage.dead_letter(run, DeadLetterStatus.REPLAYED)  # as soon as the next step begins
        assert (await stage.runs.context(run)).status is InstanceStatus.RUNNING
        await run.handle.terminate()
    assert stage.effects.counts == {"first": 1}


async def test_a_wait_settles_the_dead_letter_of_a_fixed_journey_too(stage: Stage, customer: Customer) -> None:
    async with working(stage.runs, stage.effects, [Buggy]):
        run = await stage.failed(customer, "fixed")
        letter = await stage.dead_letter(run)
    async with working(stage.runs, stage.effects, [FixedWithAWait]):
        await stage.replay(letter)
        await stage.dead_letter(run, DeadLetterStatus.REPLAYED)
        assert (await stage.runs.until(run, "wait_for_shop_visit")).status is InstanceStatus.RUNNING
        await run.handle.terminate()


async def test_a_rejected_replay_is_an_end_with_a_callback_of_its_own(served: Stage, customer: Customer) -> None:
    served.effects.failing = {"outside"}
    run = await served.failed(customer, "in_a_row")
    async with served.runs.database.transaction() as connection:
        key = await data_keys.require(connection, served.runs.cipher, customer.user_id)
        await callbacks.add(connection, key, run.instance_id, "https://example.com/hook", new_secret())
        await connection.execute("UPDATE dead_letters SET run_id = $1", str(uuid.uuid4()))
    await served.replay(await served.dead_letter(run))
    assert await served.ended(run) is InstanceStatus.FAILED
    due = CallbackDue(instance_id=run.instance_id, ending=1)
    callback = served.runs.environment.client.get_workflow_handle(callback_id(due))
    async with asyncio.timeout(60):
        while not await _exists(callback):
            await asyncio.sleep(0.05)
    await callback.terminate()


async def _exists(handle: WorkflowHandle[Any, Any]) -> bool:
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
async def test_a_replay_signals_events_that_came_after_the_failure_to_waits_and_exits(
    served: Stage, customer: Customer, event_type: str, reason: str | None, variables: dict[str, bool]
) -> None:
    served.effects.failing, served.effects.slow = {"beside"}, {"beside": 0.3}
    run = await served.failed(customer, "with_a_wait")
    letter = await served.dead_letter(run)
    async with served.runs.database.transaction() as connection:
        key = await data_keys.require(connection, served.runs.cipher, customer.user_id)
        await connection.execute("SELECT ensure_events_partition(date_trunc('month', now())::date)")
        await connection.execute(
            """INSERT INTO events (event_id, user_id, event_type, timestamp, session_id, shard, generation,
                                   historical, body)
               VALUES ('e-meanwhile', $1, $3, now(), 's', 0, 1, false, $2)""",
            customer.user_id,
            key.encrypt_json("events.body", {}, "e-meanwhile"),
            event_type,
        )
    served.effects.failing = set()
    await served.replay(letter)
    assert await served.ended(run) is InstanceStatus.COMPLETED
    context = await served.runs.context(run)
    assert (context.variables, context.reason) == (variables, reason)


async def test_late_writes_of_a_replaced_run_are_dropped(served: Stage, customer: Customer) -> None:
    """The failed run's recordings are delivered twice, the second time after the replay."""
    served.effects.failing = {"outside"}
    run = await served.failed(customer, "in_a_row")
    letter = await served.dead_letter(run)
    async with served.runs.database.transaction() as connection:
        await connection.execute(
            "UPDATE instances SET status = 'running', end_time = NULL, replaced_runs = ARRAY[$1::text]",
            letter.run_id,
        )

    progress = Progress(
        instance_id=run.instance_id,
        user_id=customer.user_id,
        status=InstanceStatus.RUNNING,
        current_step="outside",
    )
    failed = progress.model_copy(update={"status": InstanceStatus.FAILED})
    context = StepContext(
        workflow_id="in_a_row",
        instance_id=run.instance_id,
        user_id=customer.user_id,
        step="outside",
        position=3,
        max_attempts=1,
    )
    async with served.runs.database.transaction() as connection:
        key = await data_keys.require(connection, served.runs.cipher, customer.user_id)
        assert not await transitions.record_progress(connection, key, progress, letter.run_id)
        assert not await terminal.finish(connection, key, failed, letter.run_id)
        cipher = served.runs.cipher
        assert not (await attempts.begin_attempt(connection, cipher, context, letter.run_id))[0].known
        assert (await attempts.begin_attempt(connection, cipher, context, "another run"))[0].known


async def test_a_lost_history_rejects_the_replay(served: Stage, customer: Customer) -> None:
    served.effects.failing = {"outside"}
    run = await served.failed(customer, "in_a_row")
    before = await served.runs.context(run)
    async with served.runs.database.connection() as connection:
        await connection.execute("UPDATE dead_letters SET run_id = $1", str(uuid.uuid4()))
    await served.replay(await served.dead_letter(run))
    assert await served.ended(run) is InstanceStatus.FAILED
    assert (await served.dead_letter(run)).attempts == 1
    assert (await served.runs.context(run)).error == before.error


async def _delivered(connection: Connection) -> None:
    async with asyncio.timeout(60):
        while await connection.fetchval("SELECT count(*) FROM temporal_outbox"):
            await asyncio.sleep(0.02)


async def test_a_replay_that_is_delivered_twice_resets_once(served: Stage, customer: Customer) -> None:
    """As when the outbox dies after the reset and before it removes the entry."""
    served.effects.failing = {"outside"}
    run = await served.failed(customer, "in_a_row")
    letter = await served.dead_letter(run)
    served.effects.failing, served.effects.slow = set(), {"outside": 1.0}
    await served.replay(letter)
    while (described := await run.handle.describe()).run_id == letter.run_id:
        await asyncio.sleep(0.02)
    async with served.runs.database.connection() as connection:
        await outbox.write_replays(connection, [letter], timedelta())
        await _delivered(connection)
        assert await served.ended(run) is InstanceStatus.COMPLETED
        assert (await served.runs.context(run)).run_id == described.run_id
        assert served.effects.counts == {"first": 1, "local": 1, "outside": 1}
        await outbox.write_replays(connection, [letter], timedelta())
        await _delivered(connection)
    client = served.runs.environment.client
    assert (await client.get_workflow_handle(run.handle.id).describe()).run_id == described.run_id


async def test_an_undelivered_replay_shows_as_running(
    skipping: WorkflowEnvironment, database: Database, cipher: Cipher, customer: Customer
) -> None:
    """Temporal still reports the failed run; the API has answered the request."""
    stage = Stage(Runs(skipping, database, cipher, f"undelivered-{uuid.uuid4().hex}", [InARow]), Effects())
    stage.effects.failing = {"local"}
    async with working(stage.runs, stage.effects, [InARow]):
        run = await stage.failed(customer, "in_a_row")
    await stage.replay(await stage.dead_letter(run))
    state = await Instances(database, cipher, skipping.client).get("in_a_row", run.instance_id)
    assert (state.stored.status, state.stored.error, state.stale) == (InstanceStatus.RUNNING, None, False)
    await stage.dead_letter(run, DeadLetterStatus.REPLAYING)


async def test_a_withdrawal_that_overtakes_a_replay_cancels_the_instance(
    served: Stage, database: Database, cipher: Cipher
) -> None:
    """Temporal has only the failed run then, and accepts its cancellation without an error."""
    customer = await Customer.new(database, cipher, Purpose.MARKETING)
    served.effects.failing = {"outside"}
    run = await served.failed(customer, "in_a_row")
    served.effects.failing = set()
    letter = await served.dead_letter(run)
    async with database.transaction() as connection:
        await connection.execute("UPDATE instances SET purpose = 'marketing'")
        await replays.request(connection, cipher, letter.dead_letter_id)
        await connection.execute("UPDATE temporal_outbox SET due_at = now() + '1 second' WHERE kind = 'replay'")
    async with database.transaction() as connection:
        await transitions.cancel_withdrawn(connection, [(customer.user_id, Purpose.MARKETING.value)])
    assert await served.ended(run) is InstanceStatus.CANCELLED
    assert (await served.runs.context(run)).reason == "consent_withdrawn"
    await served.dead_letter(run, DeadLetterStatus.DISCARDED)
    assert served.effects.counts == {"first": 1, "local": 1}
