"""Keys of instances: at most one runs for a user, workflow and key, also after a replay."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from models.errors import AlreadyRunningError, ParameterMissingError
from models.temporal.ending import failure_without_stack
from models.temporal.execution import Progress, RecordedEvent
from models.temporal.starting import Startable
from models.vocabulary import InstanceStatus
from privacy.encryption import Cipher
from runtime.database import Database
from store.connection import Connection
from store.instances import dead_letters, replays, starting, terminal, transitions, triggers
from store.instances.starting import KeyRunningError, StartRequest, WindowOpenError
from store.users import data_keys
from testing.people import Customer

BILLING = Startable("billing", "a test", None, 1, {"invoice": None}, key=["invoice"])
WEEKLY = replace(BILLING, once_per=timedelta(days=7))

Start = Callable[..., Awaitable[str]]
End = Callable[..., Awaitable[None]]


@pytest.fixture
def start(database: Database, cipher: Cipher, customer: Customer) -> Start:
    """Store an instance for an invoice; the event that triggers it isn't in the log."""

    async def start(invoice: Any, workflow: Startable = BILLING, *, triggered: bool = False) -> str:
        instance_id = uuid.uuid4().hex
        event = RecordedEvent(event_id="e-1", event_type="a.b", timestamp=datetime.now(UTC)) if triggered else None
        request = StartRequest(instance_id, customer.user_id, "test", {"invoice": invoice}, event=event)
        async with database.transaction() as connection:
            await starting.start(connection, cipher, workflow, request)
        return instance_id

    return start


@pytest.fixture
def end(database: Database, cipher: Cipher, customer: Customer) -> End:
    """End an instance; a failed one has a dead letter."""

    async def end(instance_id: str, status: InstanceStatus = InstanceStatus.COMPLETED) -> None:
        failure = failure_without_stack("Failed", "it failed", "send")
        progress = Progress(
            workflow_id="billing",
            instance_id=instance_id,
            user_id=customer.user_id,
            status=status,
            current_step="send",
            error=failure if status is InstanceStatus.FAILED else None,
        )
        async with database.transaction() as connection:
            key = await data_keys.require(connection, cipher, customer.user_id)
            assert await terminal.finish(connection, key, progress, f"run-{instance_id}")

    return end


async def dead_letter_of(connection: Connection, instance_id: str) -> str:
    letter_id: str = await connection.fetchval(
        "SELECT dead_letter_id FROM dead_letters WHERE instance_id = $1", instance_id
    )
    return letter_id


async def test_one_instance_runs_for_each_key_until_it_ends(start: Start, end: End) -> None:
    first = await start("in-1")
    assert await start("in-2") != first
    with pytest.raises(KeyRunningError) as raised:
        await start("in-1")
    assert raised.value.instance_id == first
    with pytest.raises(KeyRunningError):
        await start("in-1", triggered=True)
    await end(first)
    second = await start("in-1", triggered=True)
    with pytest.raises(KeyRunningError) as raised:
        await start("in-1")
    assert raised.value.instance_id == second


async def test_a_number_and_its_text_are_one_key(start: Start) -> None:
    """Senders give the same id as either, and a URL has only texts."""
    first = await start(4711)
    with pytest.raises(KeyRunningError) as raised:
        await start("4711")
    assert raised.value.instance_id == first


@pytest.mark.parametrize("empty", [None, ""])
async def test_an_instance_needs_a_value_for_its_key(start: Start, empty: str | None) -> None:
    with pytest.raises(ParameterMissingError) as raised:
        await start(empty)
    assert [each.pointer for each in raised.value.errors] == ["/parameters/invoice"]


async def test_of_starts_at_once_exactly_one_is_stored(start: Start, end: End, database: Database) -> None:
    """Both when the key is new, and when its last instance has ended."""
    for _ in range(4):
        found = await asyncio.gather(
            *(start("in-1", triggered=bool(number % 2)) for number in range(8)), return_exceptions=True
        )
        [stored] = [each for each in found if isinstance(each, str)]
        assert all(isinstance(each, str | KeyRunningError) for each in found), found
        async with database.connection() as connection:
            running = await connection.fetch("SELECT instance_id FROM instances WHERE end_time IS NULL")
        assert [row["instance_id"] for row in running] == [stored]
        await end(stored)


async def test_once_per_counts_for_each_key_and_a_request_does_not_count(start: Start, end: End) -> None:
    await end(await start("in-1", WEEKLY))
    await end(await start("in-1", WEEKLY, triggered=True))
    with pytest.raises(WindowOpenError) as raised:
        await start("in-1", WEEKLY, triggered=True)
    assert not isinstance(raised.value, KeyRunningError)
    await end(await start("in-2", WEEKLY, triggered=True))
    await end(await start("in-1", WEEKLY))


async def test_an_exit_before_a_message_gives_the_time_of_the_key_back_but_not_the_key(
    start: Start, end: End, database: Database, customer: Customer
) -> None:
    first = await start("in-1", WEEKLY, triggered=True)
    async with database.transaction() as connection:
        given_back = await triggers.give_back(connection, [("billing", customer.user_id, first)])
        assert given_back == {("billing", customer.user_id)}
    with pytest.raises(KeyRunningError):
        await start("in-1", WEEKLY, triggered=True)
    await end(first)
    await start("in-1", WEEKLY, triggered=True)


async def test_a_failed_instance_is_not_replayed_while_another_one_has_its_key(
    start: Start, end: End, database: Database, cipher: Cipher
) -> None:
    failed = await start("in-1")
    await end(failed, InstanceStatus.FAILED)
    other = await start("in-1")
    async with database.transaction() as connection:
        letter_id = await dead_letter_of(connection, failed)
        with pytest.raises(AlreadyRunningError):
            await replays.request(connection, cipher, letter_id)
    await end(other)
    async with database.transaction() as connection:
        await replays.request(connection, cipher, letter_id)
    with pytest.raises(KeyRunningError) as raised:
        await start("in-1")
    assert raised.value.instance_id == failed


async def test_of_two_failed_instances_with_a_key_a_replay_of_both_takes_one(
    start: Start, end: End, database: Database, cipher: Cipher
) -> None:
    letters = []
    for _ in range(2):
        failed = await start("in-1")
        await end(failed, InstanceStatus.FAILED)
        async with database.connection() as connection:
            letter_id = await dead_letter_of(connection, failed)
            letters.append(await dead_letters.find(connection, cipher, letter_id))
    async with database.transaction() as connection:
        requested = await replays.request_all(connection, letters, pause=timedelta())
    assert len(requested.accepted) == 1
    [(_, error)] = requested.rejected
    assert (error.status, error.code) == (409, "already_running")


async def test_postgres_itself_refuses_a_second_running_instance_with_a_key(
    start: Start, database: Database
) -> None:
    await start("in-1")
    async with database.connection() as connection:
        with pytest.raises(asyncpg.UniqueViolationError, match="instances_running_key"):
            await connection.execute(
                """INSERT INTO instances (instance_id, workflow_id, user_id, status, max_attempts, started_by,
                                          key_digest)
                   SELECT 'other', workflow_id, user_id, status, 1, 'test', key_digest FROM instances"""
            )


async def test_a_window_that_only_held_a_key_is_deleted_with_its_instance(
    start: Start, end: End, database: Database
) -> None:
    """Otherwise each invoice would leave a row for ever. The time of a trigger may be longer than the period."""
    kept, gone = await start("in-1", WEEKLY, triggered=True), await start("in-2", WEEKLY)
    for each in (kept, gone):
        await end(each)
    async with database.transaction() as connection:
        await transitions.delete_ended(connection, [kept, gone], datetime.now(UTC) + timedelta(hours=1))
        left = await connection.fetch("SELECT instance_id FROM trigger_windows")
    assert [row["instance_id"] for row in left] == [kept]
