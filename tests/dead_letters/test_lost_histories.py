"""An instance whose history Temporal has lost starts anew in place of the lost run, and repeats nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from activities.outbox import Outbox
from activities.reconciler import LOST_AFTER, Reconciler
from activities.replays import Replays
from models.instances import NewInstance, StoredInstance
from models.rules.triggers import parameter, when
from models.temporal.ending import HISTORY_LOST, history_lost
from models.temporal.system import ReconcileRequest
from models.vocabulary import DeadLetterStatus, InstanceStatus, ProblemKind
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from runtime.temporal import EncryptedPayloads
from store.instances import dead_letters, instances, replays, terminal, transitions
from store.instances.dead_letters import Filter, StoredDeadLetter
from store.instances.instances import Unfinished
from store.instances.terminal import Ending
from store.users import data_keys
from testing.mail import MailServer
from testing.people import Customer
from testing.runs import Run, Runs
from testing.temporal import skipping_temporal
from tests.dead_letters.lost_journeys import LongWay
from tests.support.log import Happening, Log
from worker import build_worker

PARAMETERS = {"rest": "PT0.1S", "patience": "P9D"}


@pytest.fixture(scope="module")
async def elsewhere(codec: EncryptedPayloads) -> AsyncIterator[WorkflowEnvironment]:
    """Another Temporal, as after the loss of the first one's database."""
    async with skipping_temporal(codec) as environment:
        with environment.with_time_skipping_disabled():
            yield environment


class Stage:
    """Runs the journey on one Temporal or another."""

    def __init__(self, database: Database, cipher: Cipher, settings: Settings) -> None:
        self.database = database
        self.cipher = cipher
        self.settings = settings

    def runs(self, environment: WorkflowEnvironment) -> Runs:
        return Runs(environment, self.database, self.cipher, self.settings.task_queue, [LongWay])

    @asynccontextmanager
    async def working(self, client: Client) -> AsyncIterator[None]:
        """A worker of this Temporal, and its outbox."""
        startables = {"long_way": LongWay.definition.startable}
        outbox = Outbox(self.database, self.cipher, client, client, self.settings.task_queue, startables)
        async with build_worker(client, self.settings, self.database, self.cipher, lifecycles=[LongWay]):
            task = asyncio.create_task(outbox.deliver_while(lambda: True))
            yield
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def lost(self, client: Client) -> StoredDeadLetter:
        """The dead letter that the reconciler of an empty Temporal writes."""
        watching = ReconcileRequest(watching_since=datetime.now(UTC) - LOST_AFTER)
        assert (await Reconciler(self.database, self.cipher, client).end_unrecorded(watching)).ended == 1
        return await self.letter()

    async def letter(self) -> StoredDeadLetter:
        async with self.database.connection() as connection:
            [letter] = await dead_letters.page(connection, self.cipher, Filter(), before=None, limit=9)
        return letter

    async def replay(self) -> None:
        letter = await self.letter()
        async with self.database.transaction() as connection:
            await replays.request(connection, self.cipher, letter.dead_letter_id)

    async def ended(self, runs: Runs, run: Run) -> StoredInstance:
        async with asyncio.timeout(60):
            while (context := await runs.context(run)).end_time is None:
                await asyncio.sleep(0.02)
        return context


@pytest.fixture
def stage(database: Database, cipher: Cipher, worker_settings: Settings) -> Stage:
    return Stage(database, cipher, worker_settings)


async def _at_second_wait(stage: Stage, environment: WorkflowEnvironment, customer: Customer) -> Run:
    """An instance with two messages and four waits behind it, one of them ended by an event."""
    runs = stage.runs(environment)
    run = await runs.start(customer.user_id, "long_way", parameters=PARAMETERS, still=True)
    await runs.until(run, "first")
    await runs.notify(run, "way.sign", "e-1")
    await runs.until(run, "second")
    return run


async def test_completed_steps_and_waits_are_not_repeated_and_the_wait_under_way_keeps_its_deadline(
    stage: Stage,
    skipping: WorkflowEnvironment,
    elsewhere: WorkflowEnvironment,
    customer: Customer,
    mail: MailServer,
) -> None:
    async with stage.working(skipping.client):
        run = await _at_second_wait(stage, skipping, customer)
    before = await stage.runs(skipping).context(run)
    letter = await stage.lost(elsewhere.client)
    assert (letter.error_type, letter.failed_step, letter.status) == ("history_lost", None, DeadLetterStatus.OPEN)

    async with stage.working(elsewhere.client):
        runs = stage.runs(elsewhere)
        run = runs.at(run.workflow_id, run.instance_id)
        await stage.replay()
        async with asyncio.timeout(60):
            while (again := await runs.context(run)).run_id == before.run_id or again.current_step != "second":
                await asyncio.sleep(0.02)
        assert datetime.fromisoformat(again.variables.pop("began")) == before.start_time
        assert before.variables.pop("began")
        assert again.status is InstanceStatus.RUNNING
        assert again.problem is None
        assert again.waits_until == before.waits_until
        assert (again.results, again.variables, again.start_time) == (
            before.results,
            before.variables,
            before.start_time,
        )
        assert again.variables["first"] == "e-1"
        assert len(mail.to(customer.email)) == 2
        await runs.notify(run, "way.sign", "e-2")
        done = await stage.ended(runs, run)
    assert (done.status, done.reason) == (InstanceStatus.COMPLETED, "arrived")
    assert done.variables["second"] == "e-2"
    assert len(mail.to(customer.email)) == 3
    assert (await stage.letter()).status is DeadLetterStatus.REPLAYED


async def test_an_exit_that_came_before_the_replay_ends_the_instance(
    stage: Stage,
    skipping: WorkflowEnvironment,
    elsewhere: WorkflowEnvironment,
    customer: Customer,
    mail: MailServer,
) -> None:
    async with stage.working(skipping.client):
        run = await _at_second_wait(stage, skipping, customer)
    await stage.lost(elsewhere.client)
    left = Happening(customer.user_id, "way.left", datetime.now(UTC), historical=False)
    await Log(stage.database, stage.cipher).write(left)
    async with stage.working(elsewhere.client):
        runs = stage.runs(elsewhere)
        await stage.replay()
        done = await stage.ended(runs, runs.at(run.workflow_id, run.instance_id))
    assert (done.status, done.reason) == (InstanceStatus.COMPLETED, "left")
    assert len(mail.to(customer.email)) == 2


async def test_a_repeated_delivery_starts_the_instance_once(
    stage: Stage, skipping: WorkflowEnvironment, elsewhere: WorkflowEnvironment, customer: Customer
) -> None:
    """As after a crash of the worker between its call to Temporal and the removal of the entry."""
    async with stage.working(skipping.client):
        run = await _at_second_wait(stage, skipping, customer)
    await stage.lost(elsewhere.client)
    await stage.replay()
    startables = {"long_way": LongWay.definition.startable}
    outbox = Replays(stage.database, stage.cipher, elsewhere.client, stage.settings.task_queue, startables)
    letter = await stage.letter()
    for _ in range(2):
        await outbox.deliver(letter.dead_letter_id)
    described = await stage.runs(elsewhere).at(run.workflow_id, run.instance_id).handle.describe()
    found = elsewhere.client.list_workflows(f"WorkflowId = '{described.id}'")
    async with asyncio.timeout(30):
        while not (listed := [each.run_id async for each in found]):
            await asyncio.sleep(0.1)
            found = elsewhere.client.list_workflows(f"WorkflowId = '{described.id}'")
    assert listed == [described.run_id]


async def test_a_replay_after_a_time_at_the_wrong_temporal_replaces_the_run_that_waited(
    stage: Stage,
    skipping: WorkflowEnvironment,
    elsewhere: WorkflowEnvironment,
    customer: Customer,
    mail: MailServer,
) -> None:
    async with stage.working(skipping.client):
        run = await _at_second_wait(stage, skipping, customer)
        before = await stage.runs(skipping).context(run)
    await stage.lost(elsewhere.client)
    async with stage.working(skipping.client):
        runs = stage.runs(skipping)
        with skipping.with_time_skipping_disabled():
            await stage.replay()
            async with asyncio.timeout(60):
                while (again := await runs.context(run)).run_id == before.run_id or again.current_step != "second":
                    await asyncio.sleep(0.02)
            run = runs.at(run.workflow_id, run.instance_id)
            await runs.notify(run, "way.sign", "e-2")
            done = await stage.ended(runs, run)
    assert (done.status, done.variables["second"]) == (InstanceStatus.COMPLETED, "e-2")
    assert len(mail.to(customer.email)) == 3


async def test_a_discarded_letter_gives_the_window_back(
    stage: Stage, skipping: WorkflowEnvironment, elsewhere: WorkflowEnvironment, customer: Customer
) -> None:
    async with stage.working(skipping.client):
        run = await _at_second_wait(stage, skipping, customer)
    async with stage.database.connection() as connection:
        await connection.execute(
            "INSERT INTO trigger_windows (workflow_id, user_id, instance_id) VALUES ('long_way', $1, $2)",
            customer.user_id,
            run.instance_id,
        )
    letter = await stage.lost(elsewhere.client)
    async with stage.database.transaction() as connection:
        assert await connection.fetchval("SELECT count(*) FROM trigger_windows") == 1
        await dead_letters.discard(connection, stage.cipher, letter.dead_letter_id)
        assert await connection.fetchval("SELECT count(*) FROM trigger_windows") == 0


async def test_a_rejected_replay_leaves_the_instance_as_lost_and_a_new_parameter_has_its_default_in_a_restart(
    stage: Stage, customer: Customer
) -> None:
    newer = replace(
        LongWay.definition.startable,
        default_parameters={"place": "here"},
        exits=[when("way.left", place=parameter("place"))],
    )
    new = NewInstance("i-1", "long_way", customer.user_id, 3, PARAMETERS, "test")
    lost = Unfinished("i-1", "long_way", customer.user_id, None, "r-1")
    ending = Ending(InstanceStatus.FAILED, "r-1", history_lost(), HISTORY_LOST, problem=ProblemKind.HISTORY_LOST)
    async with stage.database.transaction() as connection:
        key = await data_keys.require(connection, stage.cipher, customer.user_id)
        await transitions.insert(connection, key, new)
        await connection.execute("UPDATE instances SET run_id = 'r-1'")
        assert await terminal.end_unrecorded(connection, stage.cipher, lost, ending)
    await stage.replay()
    async with stage.database.transaction() as connection:
        restart = await replays.prepare_restart(connection, stage.cipher, newer, "i-1")
        assert restart is not None
        assert [each.where for each in restart.new.exits] == [{"place": "here"}]
        await replays.reject(connection, stage.cipher, await stage.letter())
        stored = await instances.find(connection, stage.cipher, "i-1")
    assert stored is not None
    assert (stored.status, stored.reason) == (InstanceStatus.FAILED, HISTORY_LOST)
    assert stored.problem is not None
    assert (await stage.letter()).status is DeadLetterStatus.OPEN
