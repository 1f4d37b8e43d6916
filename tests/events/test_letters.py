"""What becomes of letters that can't be delivered."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client

from activities.outbox import AT_ONCE, Outbox
from privacy.encryption import Cipher
from runtime.database import Database
from store import outbox
from store.connection import Connection
from store.instances import instances
from store.instances.instances import NewInstance
from store.outbox import GIVE_UP_AFTER
from store.users import data_keys
from tests.support.logs import logged
from tests.support.people import Customer
from tests.support.plans import explained
from worker import startables

SECRET = b"canary"
Delivering = Callable[[], AbstractAsyncContextManager[None]]


@pytest.fixture
def delivering(temporal: Client, database: Database, cipher: Cipher) -> Delivering:
    """The outbox's activity, run directly."""

    @asynccontextmanager
    async def run() -> AsyncIterator[None]:
        carrier = Outbox(database, cipher, temporal, temporal, "letters", startables())
        task = asyncio.create_task(carrier.carry_on(lambda: True))
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    return run


async def _letters(connection: Connection) -> list[dict[str, Any]]:
    rows = await connection.fetch("SELECT *, due_at - now() AS pause FROM temporal_outbox ORDER BY outbox_id")
    return [dict(row) for row in rows]


async def _write(connection: Connection, kind: str, event_id: str, user_id: str, *, attempts: int = 0) -> str:
    """Write a letter for an instance that nobody knows; gives the instance's id."""
    instance_id = uuid.uuid4().hex
    await connection.execute(
        """INSERT INTO temporal_outbox (kind, workflow_id, instance_id, step, user_id, event_id, event_type,
                                        event_timestamp, attempts)
           VALUES ($1, 'onboarding', $2, NULL, $3, $4, 'test', now(), $5)""",
        kind,
        instance_id,
        user_id,
        event_id,
        attempts,
    )
    return instance_id


async def _write_broken(connection: Connection, customer: Customer, *, attempts: int = 0) -> str:
    """A replay of a dead letter that doesn't open."""
    dead_letter_id = uuid.uuid4().hex
    instance_id = await _write(connection, "replay", dead_letter_id, customer.user_id, attempts=attempts)
    await connection.execute(
        """INSERT INTO dead_letters (dead_letter_id, workflow_id, instance_id, user_id, failed_step, run_id,
                                     error_type, error, attempts, status)
           VALUES ($1, 'onboarding', $2, $3, 'outside', 'run', 'ValueError', $4, 1, 'replaying')""",
        dead_letter_id,
        instance_id,
        customer.user_id,
        SECRET,
    )
    return instance_id


async def test_letters_that_cannot_be_delivered_hold_no_other_back(
    delivering: Delivering, database: Database, customer: Customer
) -> None:
    """More of them than are under way at once, and all older than the one that can be."""
    async with database.transaction() as connection:
        broken = {await _write_broken(connection, customer) for _ in range(AT_ONCE + 8)}
    async with database.transaction() as connection:
        good = await _write(connection, "signal", "e-1", customer.user_id)
    with logged("perennial.outbox") as lines:
        async with delivering(), database.connection() as connection, asyncio.timeout(60):
            while True:
                letters = await _letters(connection)
                tried = {each["instance_id"] for each in letters if each["attempts"]}
                if tried == broken and good not in {each["instance_id"] for each in letters}:
                    break
                await asyncio.sleep(0.02)
    assert {each["instance_id"] for each in letters} == broken  # none is lost
    told = lines()
    assert {(line["level"], line["kind"], line["error"]["type"]) for line in told} == {
        ("error", "replay", "privacy.encryption.CannotOpen")
    }
    assert SECRET.decode() not in str(told)
    assert customer.user_id not in str(told)


async def test_a_letter_that_is_given_up_says_so_and_a_cancellation_never_is(
    delivering: Delivering, database: Database, cipher: Cipher, customer: Customer
) -> None:
    """The cancellation's instance is still on its way to Temporal, so it is postponed like one that is refused."""
    async with database.transaction() as connection:
        tired = await _write_broken(connection, customer, attempts=GIVE_UP_AFTER - 1)
        cancelled = await _write(connection, "cancel", "i-1", customer.user_id, attempts=GIVE_UP_AFTER + 20)
        key = await data_keys.require(connection, cipher, customer.user_id)
        await instances.insert(
            connection, key, NewInstance(cancelled, "onboarding", customer.user_id, 3, {}, "test")
        )
    with logged("perennial.outbox") as lines:
        async with delivering(), database.connection() as connection, asyncio.timeout(60):
            while not all(each["pause"] > timedelta(minutes=9) for each in await _letters(connection)):
                await asyncio.sleep(0.02)
            letters = {each["instance_id"]: each for each in await _letters(connection)}
    assert {each: letters[each]["dead"] for each in (tired, cancelled)} == {tired: True, cancelled: False}
    assert letters[cancelled]["attempts"] == GIVE_UP_AFTER + 21
    [told] = [line for line in lines() if line["message"] == "a letter was left dead"]
    assert (told["level"], told["kind"], told["workflow_id"], told["attempts"]) == (
        "error",
        "replay",
        "onboarding",
        GIVE_UP_AFTER,
    )


async def test_a_look_for_what_is_due_steps_over_no_dead_letter(
    database: Database, owner: Connection, customer: Customer
) -> None:
    async with database.transaction() as connection:
        for number in range(3):
            await _write(connection, "signal", f"e-{number}", customer.user_id)
    await owner.execute(
        """INSERT INTO temporal_outbox (kind, workflow_id, instance_id, step, user_id, event_id, event_type,
                                        event_timestamp, due_at, dead)
           SELECT 'signal', 'onboarding', 'i-' || n, 'wait', 'u', 'e', 'test', now(), now() - interval '1 day',
                  true
           FROM generate_series(1, 5000) AS numbers (n)"""
    )
    await owner.execute("ANALYZE temporal_outbox")
    async with database.transaction() as connection:
        [plan] = await explained(connection, lambda: outbox.due(connection, AT_ONCE, []))
    assert plan.rows_read("temporal_outbox") == 3
    assert plan.blocks < 10
