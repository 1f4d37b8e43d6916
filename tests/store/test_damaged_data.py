"""Damaged data of one person: lists show the rest, and jobs go on for other people."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from models.instances import NewInstance
from models.temporal.execution import StepFailure, WaitRequest
from models.vocabulary import InstanceStatus
from privacy.encryption import Cipher, DataKey
from runtime.database import Database
from store.connection import Connection
from store.instances import dead_letters, instances, terminal, transitions, waits
from store.instances.instances import Unfinished
from store.instances.terminal import Ending
from store.users import data_keys
from testing.people import Customer

FAILURE = StepFailure(error_type="ValueError", error_message="Oh", failed_step="first", stack_trace="-")


@pytest.fixture
async def people(database: Database, cipher: Cipher) -> list[Customer]:
    """Two customers, each with an instance that waits for a view of its own page."""
    found = [await Customer.new(database, cipher) for _ in range(2)]
    async with database.transaction() as connection:
        for each in found:
            key = await data_keys.require(connection, cipher, each.user_id)
            new = NewInstance(_instance(each), "onboarding", each.user_id, 3, {}, started_by="test")
            await transitions.insert(connection, key, new)
            wait = WaitRequest(event_type="engagement.page_view", where={"page": each.user_id})
            await waits.register(connection, key, _instance(each), {"wait": wait})
    return found


def _instance(customer: Customer) -> str:
    return f"i-{customer.user_id}"


async def _keys(connection: Connection, cipher: Cipher, people: list[Customer]) -> dict[str, DataKey]:
    found = await data_keys.find(connection, cipher, [each.user_id for each in people])
    return {user_id: key for user_id, key in found.items() if key is not None}


async def test_a_wait_with_a_damaged_filter_counts_no_event_and_delays_no_other(
    database: Database, cipher: Cipher, people: list[Customer]
) -> None:
    damaged, other = people
    async with database.transaction() as connection:
        await connection.execute(
            "UPDATE event_waits SET property_filter = '\\x01' WHERE user_id = $1", damaged.user_id
        )
        found = await waits.of_users(connection, await _keys(connection, cipher, people))
    assert [each.instance_id for each in found[other.user_id]] == [_instance(other)]
    assert not found.get(damaged.user_id)


async def test_a_list_leaves_out_damaged_instances(
    database: Database, cipher: Cipher, people: list[Customer]
) -> None:
    damaged, other = people
    async with database.transaction() as connection:
        await connection.execute("UPDATE instances SET parameters = '' WHERE user_id = $1", damaged.user_id)
        for limit in (1, 2, 10):
            found = await instances.page(
                connection, cipher, "onboarding", user_id=None, statuses=None, before=None, limit=limit
            )
            assert [each.user_id for each in found] == [other.user_id]


async def test_the_end_of_an_instance_is_written_with_a_damaged_data_key(
    database: Database, cipher: Cipher, people: list[Customer]
) -> None:
    damaged = people[0]
    instance = Unfinished(_instance(damaged), "onboarding", damaged.user_id, "first", None)
    async with database.transaction() as connection:
        await connection.execute("UPDATE data_keys SET wrapped = '' WHERE subject = $1", damaged.user_id)
        ending = Ending(InstanceStatus.FAILED, None, FAILURE, at=datetime.now(UTC))
        assert await terminal.end_unrecorded(connection, cipher, instance, ending)


async def test_a_dead_letter_with_a_damaged_error_is_listed_and_can_be_discarded(
    database: Database, cipher: Cipher, people: list[Customer]
) -> None:
    async with database.transaction() as connection:
        for each in people:
            key = await data_keys.require(connection, cipher, each.user_id)
            instance = Unfinished(_instance(each), "onboarding", each.user_id, "first", "run")
            await dead_letters.record(connection, key, instance, "run", FAILURE)
        await connection.execute("UPDATE data_keys SET wrapped = '' WHERE subject = $1", people[0].user_id)
        found = await dead_letters.page(connection, cipher, dead_letters.Filter(), before=None, limit=10)
        shown = {each.user_id: each.error for each in found}
        assert shown[people[0].user_id] is None
        assert shown[people[1].user_id] is not None
        [letter] = [each for each in found if each.error is None]
        await dead_letters.discard(connection, cipher, letter.dead_letter_id)
