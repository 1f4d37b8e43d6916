"""An exit that became due before a replay, or during a pause, ends the instance before the next attempt."""

from __future__ import annotations

import asyncio

import pytest

from activities.recording import PAUSED_RETRY
from models.vocabulary import DeadLetterStatus, InstanceStatus
from privacy.encryption import Cipher
from runtime.database import Database
from store.instances import replays
from testing.people import Customer
from testing.runs import Run
from tests.dead_letters.conftest import Stage
from tests.events.test_outbox import Log as EventLog


@pytest.fixture
def log(database: Database, cipher: Cipher, customer: Customer) -> EventLog:
    return EventLog(database, cipher, customer)


async def _ends_by_exit(stage: Stage, run: Run) -> None:
    assert await stage.ended(run) is InstanceStatus.COMPLETED
    assert (await stage.runs.context(run)).reason == "shop.leave"


@pytest.mark.parametrize("step", ["local", "outside"])
async def test_an_exit_after_the_failure_ends_a_replay_before_the_failed_step(
    served: Stage, customer: Customer, log: EventLog, step: str
) -> None:
    """Only the log has the event: the projector hasn't read it, or Temporal had no run to signal it to."""
    served.effects.failing = {step}
    run = await served.failed(customer, "in_a_row")
    letter = await served.dead_letter(run)
    await log.store("shop.leave")
    served.effects.failing = set()
    await served.replay(letter)
    await _ends_by_exit(served, run)
    await served.dead_letter(run, DeadLetterStatus.REPLAYED)
    assert served.effects.counts[step] == 0
    assert served.effects.counts["farewell"] == 1  # a step of `at_exit`, for which the exit is due too
    attempts = [each.attempt for each in (await served.runs.context(run)).attempts if each.step == step]
    assert attempts == [1]
    run = served.runs.at(run.workflow_id, run.instance_id)
    await run.handle.result()
    await served.runs.replay(run)


async def test_an_exit_between_the_request_of_a_replay_and_its_reset_ends_it_too(
    served: Stage, customer: Customer, log: EventLog
) -> None:
    served.effects.failing = {"outside"}
    run = await served.failed(customer, "in_a_row")
    letter = await served.dead_letter(run)
    served.effects.failing = set()
    async with served.runs.database.transaction() as connection:
        await replays.request(connection, served.runs.cipher, letter.dead_letter_id)
        await connection.execute("UPDATE temporal_outbox SET due_at = now() + '1 day' WHERE kind = 'replay'")
    event = await log.store("shop.leave")
    assert await log.project(event) == 1  # the signal finds no run, and is dropped
    async with asyncio.timeout(60), served.runs.database.connection() as connection:
        while await connection.fetchval("SELECT count(*) FROM temporal_outbox WHERE kind = 'signal'"):
            await asyncio.sleep(0.02)
        await connection.execute("UPDATE temporal_outbox SET due_at = now()")
    await _ends_by_exit(served, run)
    await served.dead_letter(run, DeadLetterStatus.REPLAYED)
    assert served.effects.counts == {"first": 1, "local": 1, "farewell": 1}


async def test_an_exit_ends_a_replay_before_the_steps_of_each_branch(
    served: Stage, customer: Customer, log: EventLog
) -> None:
    served.effects.failing = {"two", "three"}
    run = await served.failed(customer, "side_by_side")
    letter = await served.dead_letter(run)
    await log.store("shop.leave")
    served.effects.failing = set()
    await served.replay(letter)
    await _ends_by_exit(served, run)
    await served.dead_letter(run, DeadLetterStatus.REPLAYED)
    assert served.effects.counts == {"before": 1, "one": 1}


async def test_a_paused_instance_holds_the_next_attempt_and_its_exit_ends_it_on_resume(
    served: Stage, customer: Customer, log: EventLog
) -> None:
    """The projector hasn't read the event. The attempt that falls due finds it, and doesn't begin."""
    served.effects.failing = {"outside"}
    run = await served.runs.start(customer.user_id, "in_a_row", max_attempts=100, still=True)
    await served.runs.until_tried(run, "outside", 1)
    await run.handle.execute_update("pause")
    served.effects.failing = set()
    await log.store("shop.leave")
    async with asyncio.timeout(60):
        while not any(
            event.HasField("activity_task_failed_event_attributes")
            for event in (await run.handle.fetch_history()).events
        ):
            await asyncio.sleep(0.05)
    assert (await served.runs.context(run)).status is InstanceStatus.PAUSED
    await run.handle.execute_update("resume")
    await _ends_by_exit(served, run)
    assert served.effects.counts == {"first": 1, "local": 1, "farewell": 1}
    await run.handle.result()
    await served.runs.replay(run)


async def test_a_pause_holds_the_next_attempt_until_the_resume(served: Stage, customer: Customer) -> None:
    served.effects.failing = {"outside"}
    run = await served.runs.start(customer.user_id, "in_a_row", max_attempts=100, still=True)
    await served.runs.until_tried(run, "outside", 1)
    await run.handle.execute_update("pause")
    tried = len((await served.runs.context(run)).attempts)
    await _until_scheduled(run, await _scheduled(run) + 1)  # the attempt between was held
    assert len((await served.runs.context(run)).attempts) == tried
    served.effects.failing = set()
    await run.handle.execute_update("resume")
    await served.runs.environment.fast_forward(run.handle, PAUSED_RETRY * 2)
    assert await served.ended(run) is InstanceStatus.COMPLETED
    assert served.effects.counts["outside"] == 1


async def _scheduled(run: Run) -> int:
    """Temporal's number of the attempt that is scheduled."""
    (pending,) = (await run.handle.describe()).raw_description.pending_activities
    return pending.attempt


async def _until_scheduled(run: Run, attempt: int) -> None:
    async with asyncio.timeout(60):
        while await _scheduled(run) < attempt:
            await asyncio.sleep(0.05)
