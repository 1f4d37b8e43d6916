"""A wait that is registered late looks back: however much has happened since, what counts is found."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models.temporal.execution import RecordedEvent, WaitRequest
from models.vocabulary import DeadLetterStatus
from privacy.encryption import Cipher, DataKey
from runtime.database import Database
from store.connection import Connection
from store.instances import instances, replays, waits
from store.instances.dead_letters import StoredDeadLetter
from store.instances.instances import NewInstance
from store.users import data_keys
from tests.support.log import Happening, Log
from tests.support.people import Customer
from tests.support.plans import explained

INSTANCE = "i-1"
PAGE_VIEW = "engagement.page_view"
PURCHASE = "transaction.purchase_complete"
MANY = 1500


class Waiter:
    """An instance that has just been stored, and what its person does: an event a second from some time ago on."""

    def __init__(self, log: Log, customer: Customer) -> None:
        self.user_id = customer.user_id
        self._log = log
        self.next_at = datetime.now(UTC) - timedelta(minutes=50)

    async def does(self, event_type: str, times: int = 1, **properties: Any) -> list[Happening]:
        """Record events; gives them."""
        done = []
        for _ in range(times):
            done.append(Happening(self.user_id, event_type, self.next_at, properties=properties, historical=False))
            self.next_at += timedelta(seconds=1)
        await self._log.write(*done)
        return done

    async def looks_back(self, connection: Connection, **asked: WaitRequest) -> list[RecordedEvent]:
        """What waits that are registered now find."""
        key = await self.key(connection)
        for step, request in asked.items():
            await waits.register(connection, key, "onboarding", INSTANCE, step, request)
        return await waits.already_recorded(connection, key, INSTANCE, self.user_id, asked)

    async def key(self, connection: Connection) -> DataKey:
        return await data_keys.require(connection, self._log.cipher, self.user_id)


@pytest.fixture
async def waiter(database: Database, cipher: Cipher, customer: Customer) -> Waiter:
    waiter = Waiter(Log(database, cipher), customer)
    async with database.transaction() as connection:
        new = NewInstance(INSTANCE, "onboarding", customer.user_id, 3, {}, "test")
        await instances.insert(connection, await waiter.key(connection), new)
    return waiter


def _ids(events: Sequence[RecordedEvent | Happening]) -> list[str]:
    return [event.event_id for event in events]


@pytest.mark.parametrize(
    "request_",
    [
        WaitRequest(event_type=PURCHASE),
        WaitRequest(event_type="transaction.*"),
        WaitRequest(event_type="*", where={"order_id": "o-2"}),
        WaitRequest(event_type=PURCHASE, where={"order_id": "o-2"}),
    ],
)
async def test_an_event_that_many_others_followed_is_found(
    waiter: Waiter, database: Database, request_: WaitRequest
) -> None:
    await waiter.does(PAGE_VIEW, MANY)
    wanted = await waiter.does(PURCHASE, order_id="o-2")
    await waiter.does(PAGE_VIEW, MANY)
    async with database.transaction() as connection:
        assert _ids(await waiter.looks_back(connection, wait=request_)) == _ids(wanted)


async def test_an_event_is_found_among_many_of_its_type_by_its_properties(
    waiter: Waiter, database: Database
) -> None:
    await waiter.does(PURCHASE, MANY, order_id="o-1")
    wanted = await waiter.does(PURCHASE, order_id="o-2")
    await waiter.does(PURCHASE, MANY, order_id="o-1")
    async with database.transaction() as connection:
        asked = WaitRequest(event_type=PURCHASE, where={"order_id": "o-2"})
        assert _ids(await waiter.looks_back(connection, wait=asked)) == _ids(wanted)


async def test_each_wait_gets_its_own_and_the_oldest_first(waiter: Waiter, database: Database) -> None:
    first = await waiter.does(PAGE_VIEW, MANY)
    bought = await waiter.does(PURCHASE, 2)
    last = await waiter.does("engagement.search", 3)
    async with database.transaction() as connection:
        found = await waiter.looks_back(
            connection,
            late=WaitRequest(event_type="engagement.*", since=last[0].timestamp),
            bought=WaitRequest(event_type="transaction.*"),
            seen=WaitRequest(event_type="engagement.*"),
            never=WaitRequest(event_type="user.*"),
        )
    by_step = {step: [each for each in found if each.step == step] for step in ("late", "bought", "seen")}
    assert _ids(by_step["late"]) == _ids(last)
    assert _ids(by_step["bought"]) == _ids(bought)
    assert _ids(by_step["seen"]) == _ids(first)[: len(by_step["seen"])]
    assert len(found) == sum(map(len, by_step.values()))


async def test_of_what_earlier_waits_may_have_taken_one_is_left(waiter: Waiter, database: Database) -> None:
    """A journey may wait for the same thing hundreds of times, and each time takes the oldest that is left."""
    seen = await waiter.does(PAGE_VIEW, 1000)
    async with database.transaction() as connection:
        await connection.execute(
            """INSERT INTO steps (instance_id, step, position)
               SELECT $1, 'wait_' || n, n FROM generate_series(1, 350) AS numbers (n)""",
            INSTANCE,
        )
        found = await waiter.looks_back(connection, wait_351=WaitRequest(event_type=PAGE_VIEW))
    assert 350 < len(found) < 1000  # what the workflow is handed stays small
    assert _ids(found) == _ids(seen)[: len(found)]


async def test_each_statement_passes_a_bounded_number_of_events(
    waiter: Waiter, database: Database, owner: Connection
) -> None:
    await waiter.does(PAGE_VIEW, 2 * MANY)
    [wanted] = await waiter.does(PURCHASE)
    await owner.execute("ANALYZE events")
    async with database.transaction() as connection:
        # Where all events are one person's, to read and sort them may look cheaper: here it depends on chance.
        for node in ("seqscan", "bitmapscan", "sort"):
            await connection.execute(f"SET LOCAL enable_{node} = off")
        key = await waiter.key(connection)
        asked = {"wait": WaitRequest(event_type=PURCHASE)}

        async def look() -> None:
            found = await waits.already_recorded(connection, key, INSTANCE, waiter.user_id, asked)
            assert _ids(found) == [wanted.event_id]

        looked_at = [plan.rows_read("events") for plan in await explained(connection, look)]
    assert sum(looked_at) == 2 * MANY + 1
    assert max(looked_at) <= 1000


async def test_a_replayed_instance_is_told_of_what_came_after_its_failure_whatever_its_wait_passes_over(
    waiter: Waiter, database: Database, cipher: Cipher
) -> None:
    """The events from before the wait's ``since`` are nothing to it, and more than it is ever told of."""
    await waiter.does(PAGE_VIEW, MANY)
    since = waiter.next_at
    async with database.transaction() as connection:
        await waiter.looks_back(connection, wait=WaitRequest(event_type="engagement.*", since=since))
    wanted = await waiter.does(PAGE_VIEW, 2)
    now = datetime.now(UTC)
    letter = StoredDeadLetter(
        *("dl-1", "onboarding", INSTANCE, waiter.user_id, "outside", "run-1", "ValueError", None, 1),
        *(DeadLetterStatus.REPLAYING, now, now),
    )
    async with database.transaction() as connection:
        await replays.tell_missed_events(connection, cipher, letter)
        told = await connection.fetch(
            "SELECT event_id FROM temporal_outbox WHERE step = 'wait' ORDER BY outbox_id"
        )
    assert [row["event_id"] for row in told] == _ids(wanted)
