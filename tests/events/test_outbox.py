"""An event in the log reaches a waiting instance, or starts one, once; none is missed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment

from activities.outbox import Outbox
from models.rules.folding import LogEvent
from models.rules.sharding import shard_of
from models.rules.triggers import WorkflowTrigger, on
from models.temporal.execution import WaitRequest
from models.vocabulary import Basis, InstanceStatus, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from store import outbox
from store.instances import waits
from store.users import data_keys
from testing.people import Customer
from testing.runs import Runs
from worker import startables

SIGNUP = [WorkflowTrigger("onboarding", on("user.signup"))]


class Log:
    """Writes events as ingest does, and outbox entries as the projector does."""

    def __init__(self, database: Database, cipher: Cipher, customer: Customer) -> None:
        self._database = database
        self._cipher = cipher
        self._customer = customer

    async def store(
        self,
        event_type: str,
        *,
        ago: timedelta = timedelta(),
        historical: bool = False,
        basis: Basis = Basis.CONSENT,
        **properties: Any,
    ) -> LogEvent:
        """Commit an event to the log."""
        event_id, moment = uuid.uuid4().hex, datetime.now(UTC) - ago
        body: Mapping[str, Any] = {"event_properties": properties}
        async with self._database.transaction() as connection:
            await connection.execute("SELECT ensure_events_partition($1)", moment.date().replace(day=1))
        async with self._database.transaction() as connection:
            key = await data_keys.require(connection, self._cipher, self._customer.user_id)
            received_at = await connection.fetchval(
                """INSERT INTO events (event_id, user_id, event_type, timestamp, session_id, shard, generation,
                                       historical, body, basis)
                   VALUES ($1, $2, $3, $4, 's', $5, 1, $6, $7, $8) RETURNING received_at""",
                event_id,
                self._customer.user_id,
                event_type,
                moment,
                shard_of(self._customer.user_id),
                historical,
                key.encrypt_json("events.body", body, event_id),
                basis,
            )
        return LogEvent(
            event_id=event_id,
            user_id=self._customer.user_id,
            event_type=event_type,
            timestamp=moment,
            session_id="s",
            received_at=received_at,
            historical=historical,
            body=lambda: body,
            basis=basis,
        )

    async def project(self, *events: LogEvent, triggers: Sequence[WorkflowTrigger] = SIGNUP) -> int:
        """Write the outbox entries that events cause; returns their number."""
        async with self._database.transaction() as connection:
            keys = await data_keys.find(connection, self._cipher, {event.user_id for event in events})
            known = {user_id: key for user_id, key in keys.items() if key is not None}
            return await outbox.enqueue(connection, events, triggers, known)


@pytest.fixture
def log(database: Database, cipher: Cipher, customer: Customer) -> Log:
    return Log(database, cipher, customer)


@pytest.fixture
async def delivering(
    skipping: WorkflowEnvironment, database: Database, cipher: Cipher, worker_settings: Settings
) -> AsyncIterator[None]:
    """The loop of the outbox's activity."""
    delivery = Outbox(database, cipher, skipping.client, skipping.client, worker_settings.task_queue, startables())
    task = asyncio.create_task(delivery.deliver_while(lambda: True))
    with skipping.with_time_skipping_disabled():
        yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_event_that_comes_during_a_wait_ends_it(
    runs: Runs, customer: Customer, log: Log, delivering: None
) -> None:
    run = await runs.start(customer.user_id, still=True)
    await runs.until(run, "wait_for_first_activity")
    event = await log.store("engagement.page_view")
    assert await log.project(event) == 1
    assert (await run.handle.result()).reason == "activated"
    assert (await runs.context(run)).results["wait_for_first_activity"]["event_id"] == event.event_id
    async with runs.database.connection() as connection:
        async with asyncio.timeout(60):  # the entry is removed after the signal, and the instance may end before
            while await connection.fetchval("SELECT count(*) FROM temporal_outbox"):
                await asyncio.sleep(0.02)
        assert await connection.fetchval("SELECT count(*) FROM event_waits") == 0


async def test_an_event_before_the_registration_ends_the_wait_too(
    runs: Runs, customer: Customer, log: Log
) -> None:
    """No signal is sent: the instance finds it in the log after it has registered the wait."""
    instance = await runs.stored(customer.user_id)
    event = await log.store("engagement.search")
    run = await runs.begin(instance)
    assert (await run.handle.result()).reason == "activated"
    assert (await runs.context(run)).results["wait_for_first_activity"]["event_id"] == event.event_id


async def test_events_from_before_the_instance_and_old_data_do_not_count(
    runs: Runs, customer: Customer, log: Log, delivering: None
) -> None:
    before = await log.store("engagement.search")
    run = await runs.start(customer.user_id, still=True)
    await runs.until(run, "wait_for_first_activity")
    old = await log.store("engagement.page_view", historical=True)
    late = await log.store("engagement.page_view", ago=timedelta(days=2))
    other = await log.store("user.login")
    assert await log.project(before, old, late, other) == 0
    assert (await runs.context(run)).status is InstanceStatus.RUNNING
    await run.handle.terminate()


async def test_a_trigger_starts_a_workflow_once_per_event(
    runs: Runs, customer: Customer, log: Log, delivering: None
) -> None:
    event = await log.store("user.signup")
    for _ in range(3):
        await log.project(event)
    instance_id = outbox.triggered_instance_id("onboarding", event.event_id)
    run = runs.at("onboarding", instance_id)
    await runs.until(run, "wait_for_first_activity")
    async with runs.database.connection() as connection:
        async with asyncio.timeout(60):
            while await connection.fetchval("SELECT count(*) FROM temporal_outbox"):
                await asyncio.sleep(0.02)
        assert await connection.fetchval("SELECT count(*) FROM instances") == 1
    await run.handle.terminate()


async def test_old_data_and_late_events_start_nothing(log: Log) -> None:
    old = await log.store("user.signup", historical=True)
    late = await log.store("user.signup", ago=timedelta(hours=2))
    assert await log.project(old, late) == 0


async def test_an_event_without_consent_starts_services_alone(database: Database, cipher: Cipher) -> None:
    log = Log(database, cipher, await Customer.new(database, cipher, Purpose.MARKETING))
    event = await log.store("user.signup", basis=Basis.CONTRACT)
    marketing = [WorkflowTrigger(each, on("user.*"), purpose=Purpose.MARKETING) for each in ("one", "other")]
    assert await log.project(event, triggers=marketing) == 0
    async with database.connection() as connection:
        reasons = await connection.fetch("SELECT workflow_id, reason FROM decisions ORDER BY 1")
    assert [tuple(each) for each in reasons] == [("one", "consent_required"), ("other", "consent_required")]
    assert await log.project(event, triggers=[*marketing, WorkflowTrigger("service", on("*"))]) == 1
    assert await log.project(await log.store("user.signup"), triggers=marketing) == 2


async def test_a_trigger_of_a_disabled_workflow_starts_nothing(
    runs: Runs, customer: Customer, log: Log, delivering: None
) -> None:
    async with runs.database.connection() as connection:
        await connection.execute(
            "INSERT INTO workflow_settings (workflow_id, enabled) VALUES ('onboarding', false)"
        )
        await log.project(await log.store("user.signup"))
        async with asyncio.timeout(60):
            while await connection.fetchval("SELECT count(*) FROM temporal_outbox"):
                await asyncio.sleep(0.02)
        assert await connection.fetchval("SELECT count(*) FROM instances") == 0


async def test_an_entry_for_an_ended_instance_is_removed(
    runs: Runs, customer: Customer, log: Log, delivering: None
) -> None:
    run = await runs.start(customer.user_id, still=True)
    await runs.until(run, "wait_for_first_activity")
    await run.handle.terminate()
    assert await log.project(await log.store("engagement.share")) == 1
    async with runs.database.connection() as connection, asyncio.timeout(60):
        while await connection.fetchval("SELECT count(*) FROM temporal_outbox"):
            await asyncio.sleep(0.02)


async def test_the_filter_of_a_wait_is_encrypted_and_applies(
    database: Database, cipher: Cipher, customer: Customer, runs: Runs, log: Log
) -> None:
    instance = await runs.stored(customer.user_id)
    request = WaitRequest(event_type="transaction.*", where={"order_id": "kanarie-1"})
    async with database.transaction() as connection:
        key = await data_keys.require(connection, cipher, customer.user_id)
        await waits.register(connection, key, instance.instance_id, {"wait": request})
        assert "kanarie" not in str(await connection.fetch("SELECT * FROM event_waits"))
        assert b"kanarie" not in await connection.fetchval(
            "SELECT property_filter FROM event_waits WHERE step = 'wait'"
        )
    other = await log.store("transaction.refund", order_id="kanarie-2")
    wanted = await log.store("transaction.refund", order_id="kanarie-1")
    assert await log.project(other) == 0
    assert await log.project(wanted) == 1
    async with database.transaction() as connection:
        found = await waits.already_recorded(
            connection, key, instance.instance_id, customer.user_id, {"wait": request}
        )
        assert "kanarie" not in str(await connection.fetch("SELECT * FROM temporal_outbox"))
    assert [event.event_id for event in found] == [wanted.event_id]
