"""The content of callbacks, the role that they are masked for, and their retries."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.callbacks import PAUSES, Callbacks
from delivery.signatures import new_secret
from models.instances import NewInstance
from models.schemas.workflows import FinishedInstance
from models.temporal.system import CallbackDue
from models.vocabulary import Role
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from store import api_keys
from store.connection import Connection
from store.instances import callbacks, transitions
from store.users import data_keys
from testing.hooks import HookServer
from testing.people import Customer

DUE = CallbackDue(instance_id="i-1", ending=0)


Parts = tuple[Cipher, Settings, Mapping[str, Collection[str]], Mapping[str, Sequence[str]]]


@dataclass(frozen=True)
class Ended:
    """An ended instance that an admin's key executed, with a callback to ``hooks``."""

    database: Database
    sending: Callbacks
    parts: Parts
    hooks: HookServer
    key_id: str

    async def send(self, attempt: int = 1) -> None:
        """One attempt, with Temporal's number of it."""
        environment = ActivityEnvironment()
        environment.info = replace(environment.default_info(), attempt=attempt)
        await environment.run(self.sending.send, DUE)

    async def execute(self, statement: str, *values: Any) -> None:
        async with self.database.connection() as connection:
            await connection.execute(statement, *values)

    async def stored(self) -> tuple[str, int]:
        """Its status and its attempts."""
        async with self.database.connection() as connection:
            row = await connection.fetchrow("SELECT status, attempts FROM callbacks")
        assert row is not None
        return row["status"], row["attempts"]


@pytest.fixture
async def ended(
    database: Database, cipher: Cipher, worker_settings: Settings, customer: Customer
) -> AsyncIterator[Ended]:
    async with HookServer() as hooks:
        async with database.transaction() as connection:
            executing, _ = await api_keys.create(connection, "leaked", [Role.ADMIN])
            key = await data_keys.require(connection, cipher, customer.user_id)
            gift = {"gift": "tea for Ada"}
            new = NewInstance("i-1", "onboarding", customer.user_id, 3, gift, started_by=executing.key_id)
            await transitions.insert(connection, key, new)
            await callbacks.add(connection, key, "i-1", hooks.url, new_secret())
            await connection.execute("UPDATE instances SET status = 'completed', end_time = now()")
        parts: Parts = (cipher, worker_settings, {}, {"onboarding": ["gift"]})
        yield Ended(database, Callbacks(database, *parts), parts, hooks, executing.key_id)


async def test_a_callback_shows_the_instance_as_the_key_may_see_it_at_that_time(ended: Ended) -> None:
    await ended.send()
    await ended.execute("UPDATE api_keys SET roles = '{operator}'")
    await ended.send()
    shown = [json.loads(hook.body)["parameters"]["gift"] for hook in ended.hooks.received]
    assert shown == [json.loads(hook.body)["key"]["gift"] for hook in ended.hooks.received]
    assert shown[0] == "tea for Ada"
    assert "Ada" not in shown[1]
    assert [b"Ada" in hook.body for hook in ended.hooks.received] == [True, False]


async def test_a_callback_has_the_envelope_of_a_webhook_and_the_documented_shape(ended: Ended) -> None:
    await ended.send()
    [hook] = ended.hooks.received
    FinishedInstance.model_validate_json(hook.body, strict=True)
    body = json.loads(hook.body)
    assert body["type"] == "workflow.instance_finished"
    assert body["timestamp"] == body["data"]["end_time"]
    # Receivers of earlier versions read the instance's fields beside the envelope.
    assert body["data"] == {
        name: value for name, value in body.items() if name not in ("type", "timestamp", "data")
    }


async def test_a_callback_is_sent_after_the_rotation_of_its_key_whose_several_roles_mask_it_together(
    ended: Ended,
) -> None:
    async with ended.database.connection() as connection:
        await api_keys.create(connection, "other", [Role.ADMIN])  # the last admin key keeps its role
        await api_keys.rotate(connection, ended.key_id, timedelta())
        await api_keys.change(connection, ended.key_id, roles={Role.INTEGRATOR, Role.ANALYST})
    await ended.send()
    [hook] = ended.hooks.received
    assert "Ada" not in json.loads(hook.body)["parameters"]["gift"]
    assert await ended.stored() == ("delivered", 1)


async def _revoke(connection: Connection, key_id: str) -> None:
    await api_keys.create(connection, "other", [Role.ADMIN])  # the last admin key can't be revoked
    await api_keys.revoke(connection, key_id)


async def _may_only_write(connection: Connection, key_id: str) -> None:
    await connection.execute("UPDATE api_keys SET roles = '{integrator}' WHERE key_id = $1", key_id)


async def _vanish(connection: Connection, key_id: str) -> None:
    await connection.execute("UPDATE instances SET started_by = 'unknown'")


@pytest.mark.parametrize("change", [_revoke, _may_only_write, _vanish])
async def test_nothing_is_sent_for_a_key_that_may_not_read_instances_any_more(
    ended: Ended, change: Callable[[Connection, str], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async with ended.database.connection() as connection:
        await change(connection, ended.key_id)
    with caplog.at_level(logging.WARNING, "perennial.callbacks"):
        await ended.send()
    assert ended.hooks.received == []
    assert await ended.stored() == ("failed", 0)
    [record] = caplog.records
    assert record.__dict__["instance_id"] == "i-1"


async def test_retries_after_outages_do_not_count_as_attempts(ended: Ended, database_url: str) -> None:
    """Outages of Postgres and killed workers raise Temporal's count; the pauses follow the recorded attempts."""
    away = Callbacks(Database(database_url, size=1, application="away"), *ended.parts)
    with pytest.raises(ApplicationError) as unreachable:
        await ActivityEnvironment().run(away.send, DUE)
    assert (unreachable.value.type, unreachable.value.non_retryable) == ("StoreUnavailableError", False)
    assert unreachable.value.next_retry_delay == timedelta(seconds=1)
    assert await ended.stored() == ("waiting", 0)
    ended.hooks.answers = ["500 Oh"] * (len(PAUSES) + 1)
    for number, pause in enumerate(PAUSES, start=1):
        with pytest.raises(ApplicationError) as again:
            await ended.send(attempt=40 + number)
        assert again.value.next_retry_delay is not None
        assert pause <= again.value.next_retry_delay < 1.1 * pause
        assert await ended.stored() == ("waiting", number)
    with pytest.raises(ApplicationError) as last:
        await ended.send(attempt=60)
    assert last.value.non_retryable


HOURS_12 = timedelta(hours=12)


@pytest.mark.parametrize(
    ("header", "shortest", "longest"),
    [
        ("2", PAUSES[0], 1.1 * PAUSES[0]),
        ("0", PAUSES[0], 1.1 * PAUSES[0]),
        ("-7200", PAUSES[0], 1.1 * PAUSES[0]),
        ("soon", PAUSES[0], 1.1 * PAUSES[0]),
        ("600", timedelta(minutes=10), timedelta(minutes=10)),
        ("43201", HOURS_12, HOURS_12),
        ("99999999", HOURS_12, HOURS_12),
        ("9" * 400, HOURS_12, HOURS_12),
        ("Sun, 06 Nov 1994 08:49:37 GMT", PAUSES[0], 1.1 * PAUSES[0]),
        ("Fri, 31 Dec 9999 23:59:59 GMT", HOURS_12, HOURS_12),
    ],
)
async def test_a_retry_after_extends_the_pause_up_to_twelve_hours(
    ended: Ended, header: str, shortest: timedelta, longest: timedelta
) -> None:
    ended.hooks.answers = [f"503 Busy\r\nretry-after: {header}"]
    with pytest.raises(ApplicationError) as again:
        await ended.send()
    assert again.value.next_retry_delay is not None
    assert shortest <= again.value.next_retry_delay <= longest


@pytest.mark.parametrize(
    "form", ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"]
)
async def test_a_retry_after_may_be_a_date(ended: Ended, form: str) -> None:
    at = datetime.now(UTC) + timedelta(hours=2)
    ended.hooks.answers = [f"429 Busy\r\nretry-after: {at.strftime(form)}"]
    with pytest.raises(ApplicationError) as again:
        await ended.send()
    assert again.value.next_retry_delay is not None
    assert timedelta(minutes=119) < again.value.next_retry_delay <= timedelta(hours=2)


async def test_each_end_has_its_own_attempts_and_a_late_attempt_of_an_earlier_end_is_dropped(
    ended: Ended,
) -> None:
    ended.hooks.answers = ["500 Oh"]
    with pytest.raises(ApplicationError):
        await ended.send()
    async with ended.database.transaction() as connection:
        await connection.execute("UPDATE instances SET replaced_runs = '{run}'")
        await callbacks.mark_due(connection, "i-1")
        assert await callbacks.record_attempt(connection, DUE, "delivered", 204) is None
        await callbacks.give_up(connection, DUE)
    assert await ended.stored() == ("waiting", 0)
