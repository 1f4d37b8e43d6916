"""A journey whose history has grown long goes on in a new run, and loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from temporalio.testing import WorkflowEnvironment

from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from runtime.temporal import EncryptedPayloads
from tests.support.journeys import JOURNEYS
from tests.support.mail import MailServer
from tests.support.people import Customer
from tests.support.runs import Run, Runs
from tests.support.temporal import skipping_temporal
from worker import build_worker

ROUNDS = 12


@pytest.fixture(scope="module")
async def impatient(codec: EncryptedPayloads) -> AsyncIterator[WorkflowEnvironment]:
    """A Temporal that finds a history long when it has sixty events."""
    async with skipping_temporal(codec, "limit.historyCount.suggestContinueAsNew=60") as environment:
        yield environment


@pytest.fixture
async def wanderers(
    impatient: WorkflowEnvironment, database: Database, cipher: Cipher, worker_settings: Settings
) -> AsyncIterator[Runs]:
    async with build_worker(impatient.client, worker_settings, database, cipher, lifecycles=JOURNEYS):
        yield Runs(impatient, database, cipher, worker_settings.task_queue, JOURNEYS)


async def run_ids(runs: Runs, run: Run) -> list[str]:
    """All runs of an instance."""
    query = f"WorkflowId = '{run.handle.id}'"
    return [each.run_id async for each in runs.environment.client.list_workflows(query)]


async def test_a_long_journey_does_everything_once_and_comes_to_the_same(
    wanderers: Runs, customer: Customer, mail: MailServer
) -> None:
    parameters = {"patience": "PT3H", "rounds": ROUNDS}
    run = await wanderers.start(customer.user_id, "wanderer", parameters=parameters)
    assert (await run.handle.result()).reason == "arrived"
    async with asyncio.timeout(60):  # visibility comes later
        while len(await run_ids(wanderers, run)) < 3:
            await asyncio.sleep(0.05)
    context = await wanderers.context(run)
    assert len(mail.to(customer.email)) == 3
    assert [name for name in context.results if name.startswith("postcard")] == [
        "postcard",
        "postcard_2",
        "postcard_3",
    ]
    stages = [each for each in context.variables["log"] if isinstance(each, list)]
    assert [stage for stage, _, _ in stages] == list(range(ROUNDS))
    # The first run's times are as they were, however much later they are told again. (The test server sets a
    # continued run's virtual clock anew by what was skipped before, ahead or even back, so that later ones can't
    # be foretold.)
    assert [minute for _, _, minute in stages][:2] == [240, 480]
    assert len([name for name in context.results if name.startswith("beside")]) == ROUNDS
    assert len([name for name in context.results if name.startswith("rest")]) == ROUNDS
    assert len([name for name in context.results if name.startswith("meet")]) == ROUNDS


async def test_events_pauses_and_exits_reach_whichever_run_there_is(wanderers: Runs, customer: Customer) -> None:
    """Told all the time while the runs change; each event ends one wait, and none is lost."""
    parameters = {"patience": "PT2H", "rounds": 24}
    run = await wanderers.start(customer.user_id, "wanderer", still=True, parameters=parameters)
    await wanderers.until(run, "beside")
    told = [f"meeting-{number}" for number in range(16)]
    for number, event_id in enumerate(told):
        await wanderers.tell(run, "wander.meet", event_id)
        await wanderers.environment.fast_forward(run.handle, timedelta(hours=1))
        if number % 6 == 3:
            await run.handle.execute_update("pause")
            await run.handle.execute_update("resume")
    async with asyncio.timeout(60):
        while True:
            context = await wanderers.context(run)
            met = [value["event_id"] for name, value in context.results.items() if name.startswith("meet")]
            if len([each for each in met if each]) >= len(told) - 1:
                break
            await wanderers.environment.fast_forward(run.handle, timedelta(hours=1))
    assert [each for each in met if each] == told[: len([each for each in met if each])]
    await wanderers.tell(run, "wander.home")
    assert (await run.handle.result()).reason == "home"
    async with asyncio.timeout(60):
        while len(await run_ids(wanderers, run)) < 3:
            await asyncio.sleep(0.05)
    final = [each for each in (await wanderers.context(run)).variables["log"] if str(each).startswith("meeting")]
    assert final == told[: len(final)]
    assert len(final) >= len(told) - 1


async def test_a_journey_that_is_told_again_sees_the_times_that_it_saw(
    wanderers: Runs, customer: Customer
) -> None:
    """After a pause that outlasted a wait, and beside a branch that is over."""
    run = await wanderers.start(customer.user_id, "punctual", still=True, parameters={"rounds": ROUNDS})
    await wanderers.until(run, "nap")
    await run.handle.execute_update("pause")
    await wanderers.environment.fast_forward(run.handle, timedelta(hours=3))
    await run.handle.execute_update("resume")
    first = (await wanderers.until(run, "before_greeting")).variables
    assert await finished(wanderers, run) == "arrived"
    assert len(await run_ids(wanderers, run)) >= 2
    last = (await wanderers.context(run)).variables
    assert last["went_on_at"] == first["went_on_at"]
    assert last["greeted_at"] not in last["laps"]
    assert len(set(last["laps"])) == ROUNDS


async def finished(runs: Runs, run: Run) -> str | None:
    """Let hours pass until the instance has ended; says why it has."""
    async with asyncio.timeout(60):
        while (context := await runs.context(run)).end_time is None:
            await runs.environment.fast_forward(run.handle, timedelta(hours=1))
    return context.reason
