"""`/users/{user_id}/decisions`: each reason why nothing started or was sent, named in one call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client

from activities.messages import Messages
from activities.outbox import Outbox
from delivery.templates import TEMPLATES
from models.temporal.execution import Message, StepContext
from models.vocabulary import Channel, MessageStatus, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from store.messages.send_gate import FrequencyCap
from testing.people import Customer
from tests.events.test_outbox import Log
from tests.support.http import Clients, assert_problem, field_errors
from tests.workflows_api.conftest import execute
from worker import startables
from workflows.catalog import triggers

CART, TRIAL = "cart_recovery", "trial_conversion"
Deliver = Callable[[], Awaitable[None]]


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    return await Customer.new(database, cipher, Purpose.DATA_COLLECTION, Purpose.MARKETING)


@pytest.fixture
def log(database: Database, cipher: Cipher, customer: Customer) -> Log:
    return Log(database, cipher, customer)


@pytest.fixture
def deliver(settings: Settings, temporal: Client, system: Client, database: Database, cipher: Cipher) -> Deliver:
    """Delivers the outbox until it is empty, by two workers that may take the same entry."""
    parts = (database, cipher, temporal, system, settings.task_queue, startables())

    async def deliver() -> None:
        left = asyncio.Event()

        async def watch() -> None:
            async with database.connection() as connection, asyncio.timeout(60):
                while await connection.fetchval("SELECT count(*) FROM temporal_outbox"):
                    await asyncio.sleep(0.02)
            left.set()

        await asyncio.gather(watch(), *(Outbox(*parts).deliver_while(lambda: not left.is_set()) for _ in range(2)))

    return deliver


@pytest.fixture
async def one_hour() -> None:
    """Begins a test that counts rows of an hour at least 30 seconds before the next hour."""
    left = 3600 - time.time() % 3600
    if left < 30:
        await asyncio.sleep(left + 1)


async def project(log: Log, event_type: str = "transaction.cart_add", **changes: Any) -> str:
    """Store and project an event; returns its id."""
    event = await log.store(event_type, **changes)
    await log.project(event, triggers=triggers())
    return event.event_id


async def decisions(api: Clients, customer: Customer, query: str = "") -> list[dict[str, Any]]:
    answer = await api.operator.get(f"/users/{customer.user_id}/decisions{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def patch(api: Clients, customer: Customer, status: str) -> None:
    await api.admin.patch(f"/users/{customer.user_id}", json={"account_status": status})


async def nothing(api: Clients, customer: Customer) -> None: ...


async def withdraw(api: Clients, customer: Customer) -> None:
    await api.admin.delete(f"/users/{customer.user_id}/consents/marketing")


async def disable(api: Clients, customer: Customer) -> None:
    await api.admin.patch(f"/workflows/{CART}", json={"enabled": False})


async def suspend(api: Clients, customer: Customer) -> None:
    await patch(api, customer, "suspended")


async def close(api: Clients, customer: Customer) -> None:
    await patch(api, customer, "closed")


Change = Callable[[Clients, Customer], Awaitable[None]]
CAUSES = pytest.mark.parametrize(
    ("change", "reason"),
    [
        (withdraw, "consent_required"),
        (disable, "disabled"),
        (suspend, "account_suspended"),
        (close, "account_closed"),
    ],
)


@CAUSES
async def test_the_projector_records_why_a_trigger_starts_nothing(
    api: Clients, customer: Customer, log: Log, database: Database, change: Change, reason: str
) -> None:
    await change(api, customer)
    began = datetime.now(UTC)
    event_id = await project(log)
    [decision] = await decisions(api, customer)
    assert (decision["decision"], decision["reason"]) == ("not_started", reason)
    assert (decision["workflow_id"], decision["event_id"], decision["times"]) == (CART, event_id, 1)
    assert began - timedelta(seconds=5) < datetime.fromisoformat(decision["at"]) <= datetime.now(UTC)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM temporal_outbox") == 0


@CAUSES
async def test_the_start_records_what_changed_after_the_projection(
    api: Clients, customer: Customer, log: Log, deliver: Deliver, change: Change, reason: str
) -> None:
    event_id = await project(log)
    assert await decisions(api, customer) == []
    await change(api, customer)
    await deliver()
    [decision] = await decisions(api, customer)
    assert (decision["reason"], decision["event_id"], decision["times"]) == (reason, event_id, 1)


async def test_old_events_and_used_windows_are_decisions_and_historical_events_are_none(
    api: Clients, customer: Customer, log: Log, deliver: Deliver, one_hour: None
) -> None:
    old = await project(log, ago=timedelta(hours=2))
    await project(log, ago=timedelta(hours=3), historical=True)
    first, second = [await log.store("transaction.cart_add") for _ in range(2)]
    await log.project(first, second, triggers=triggers())
    assert [each["event_id"] for each in await decisions(api, customer)] == [old]
    await deliver()
    later = await project(log)
    used, too_old = await decisions(api, customer)
    # The start refused the second event of the batch, and the projector the later one.
    assert (used["reason"], used["event_id"], used["times"]) == ("window_used", later, 2)
    assert used["first_event_id"] in {first.event_id, second.event_id}
    assert (too_old["reason"], too_old["event_id"]) == ("too_old", old)
    exported = (await api.admin.get(f"/users/{customer.user_id}/export")).json()
    assert {each["reason"] for each in exported["decisions"]} == {"window_used", "too_old"}


async def test_a_stream_of_triggers_that_start_nothing_writes_one_row_an_hour(
    api: Clients, customer: Customer, log: Log, database: Database, one_hour: None
) -> None:
    await withdraw(api, customer)
    events = [await log.store("transaction.cart_add") for _ in range(30)]
    for start in range(0, 30, 10):
        await log.project(*events[start : start + 10], triggers=triggers())
    [decision] = await decisions(api, customer)
    assert (decision["times"], decision["first_event_id"]) == (30, events[0].event_id)
    assert decision["event_id"] == events[-1].event_id
    assert decision["first_at"] < decision["at"]
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE decisions SET hour = hour - interval '1 hour', at = at - interval '1 hour'"
        )
    latest = await project(log)
    assert [each["event_id"] for each in await decisions(api, customer)] == [latest, events[-1].event_id]


async def test_a_list_has_filters_and_pages_over_triggers_and_messages(
    api: Clients, customer: Customer, log: Log, database: Database, cipher: Cipher, deliver: Deliver
) -> None:
    await _suppressed(api, database, cipher, customer)
    await withdraw(api, customer)
    cart, trial = await project(log), await project(log, "subscription.trial_start")
    everything = await decisions(api, customer)
    assert [(each["workflow_id"], each["event_id"]) for each in everything] == [
        (TRIAL, trial),
        (CART, cart),
        ("onboarding", None),
    ]
    cursor, paged = "", []
    for _ in everything:
        answer = (await api.operator.get(f"/users/{customer.user_id}/decisions?limit=1{cursor}")).json()
        paged += answer["data"]
        cursor = f"&cursor={answer['pagination']['next_cursor']}"
    assert paged == everything
    assert answer["pagination"]["next_cursor"] is None
    assert await decisions(api, customer, f"?workflow_id={CART}") == everything[1:2]
    assert await decisions(api, customer, f"?since={everything[1]['at']}") == everything[:2]
    path = f"/users/{customer.user_id}/decisions"
    assert field_errors(await api.operator.get(f"{path}?since=yesterday")) == {("/query/since", "invalid_time")}
    assert_problem(await api.integrator.get(path), 403, "forbidden")
    assert_problem(await api.operator.get("/users/u-nobody/decisions"), 404, "user_not_found")


async def test_a_message_that_was_not_sent_is_a_decision_with_its_reason(
    api: Clients, customer: Customer, database: Database, cipher: Cipher
) -> None:
    instance_id, message_id = await _suppressed(api, database, cipher, customer)
    [decision] = await decisions(api, customer)
    assert (decision["decision"], decision["reason"]) == ("not_sent", "frequency_cap")
    assert (decision["instance_id"], decision["message_id"]) == (instance_id, message_id)
    assert (decision["workflow_id"], decision["template"]) == ("onboarding", "welcome")
    assert (decision["first_at"], decision["times"]) == (None, 1)


async def test_no_decision_about_an_erased_user_is_written(
    customer: Customer, log: Log, database: Database, deliver: Deliver
) -> None:
    await project(log)
    async with database.connection() as connection:
        await connection.execute("UPDATE data_keys SET wrapped = NULL WHERE subject = $1", customer.user_id)
    await deliver()
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM decisions") == 0


async def _suppressed(api: Clients, database: Database, cipher: Cipher, customer: Customer) -> tuple[str, str]:
    """Let the send gate stop a message of a new instance; returns the ids of both."""
    instance_id = (await execute(api, customer)).json()["instance_id"]
    context = StepContext(
        workflow_id="onboarding",
        instance_id=instance_id,
        user_id=customer.user_id,
        step="send_welcome",
        position=1,
        max_attempts=3,
    )
    activity = Messages(
        database,
        cipher,
        {},
        {"onboarding": Purpose.MARKETING},
        resend_unconfirmed=False,
        cap=FrequencyCap(0, timedelta(days=1)),
        templates=TEMPLATES,
    )
    sent = await activity.send(Message(channel=Channel.EMAIL, template="welcome", context=context))
    assert sent.status is MessageStatus.SUPPRESSED
    return instance_id, sent.message_id
