"""A new wait finds the events that count for it in the log, however many others there are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models.instances import NewInstance
from models.temporal.execution import RecordedEvent, WaitRequest
from models.vocabulary import DeadLetterStatus
from privacy.encryption import Cipher, DataKey
from runtime.database import Database
from store.connection import Connection
from store.instances import replays, transitions, waits
from store.instances.dead_letters import StoredDeadLetter
from store.users import data_keys
from testing.people import Customer
from tests.support.log import Happening, Log
from tests.support.plans import explained

INSTANCE = "i-1"
PAGE_VIEW = "engagement.page_view"
PURCHASE = "transaction.purchase_complete"
MANY = 1500


class Waiter:
    """A stored instance, and the events of its person: one a second, from 50 minutes ago on."""

    def __init__(self, log: Log, customer: Customer) -> None:
        self.user_id = customer.user_id
        self._log = log
        self.next_at = datetime.now(UTC) - timedelta(minutes=50)

    async def does(self, event_type: str, times: int = 1, **properties: Any) -> list[Happening]:
        """Record events; returns them."""
        done = []
        for _ in range(times):
            done.append(Happening(self.user_id, event_type, self.next_at, properties=properties, historical=False))
            self.next_at += timedelta(seconds=1)
        await self._log.write(*done)
        return done

    async def register(self, connection: Connection, **asked: WaitRequest) -> list[RecordedEvent]:
        """Register waits; returns the events that they find in the log."""
        key = await self.key(connection)
        await waits.register(connection, key, INSTANCE, asked)
        return await waits.already_recorded(connection, key, INSTANCE, self.user_id, asked)

    async def key(self, connection: Connection) -> DataKey:
        return await data_keys.require(connection, self._log.cipher, self.user_id)


@pytest.fixture
async def waiter(database: Database, cipher: Cipher, customer: Customer) -> Waiter:
    waiter = Waiter(Log(database, cipher), customer)
    async with database.transaction() as connection:
        new = NewInstance(INSTANCE, "onboarding", customer.user_id, 3, {}, "test")
        await transitions.insert(connection, await waiter.key(connection), new)
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
async def test_an_event_among_many_others_is_found(
    waiter: Waiter, database: Database, request_: WaitRequest
) -> None:
    await waiter.does(PAGE_VIEW, MANY)
    wanted = await waiter.does(PURCHASE, order_id="o-2")
    await waiter.does(PAGE_VIEW, MANY)
    async with database.transaction() as connection:
        assert _ids(await waiter.register(connection, wait=request_)) == _ids(wanted)


async def test_an_event_among_many_of_its_type_is_found_by_its_properties(
    waiter: Waiter, database: Database
) -> None:
    await waiter.does(PURCHASE, MANY, order_id="o-1")
    wanted = await waiter.does(PURCHASE, order_id="o-2")
    await waiter.does(PURCHASE, MANY, order_id="o-1")
    async with database.transaction() as connection:
        asked = WaitRequest(event_type=PURCHASE, where={"order_id": "o-2"})
        assert _ids(await waiter.register(connection, wait=asked)) == _ids(wanted)


async def test_each_wait_gets_its_own_events_oldest_first(waiter: Waiter, database: Database) -> None:
    first = await waiter.does(PAGE_VIEW, MANY)
    bought = await waiter.does(PURCHASE, 2)
    last = await waiter.does("engagement.search", 3)
    async with database.transaction() as connection:
        found = await waiter.register(
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


async def test_one_event_is_left_after_those_that_earlier_waits_may_have_taken(
    waiter: Waiter, database: Database
) -> None:
    """A journey may wait for the same type hundreds of times, and each wait takes the oldest event left."""
    seen = await waiter.does(PAGE_VIEW, 1000)
    async with database.transaction() as connection:
        await connection.execute(
            """INSERT INTO steps (instance_id, step, position)
               SELECT $1, 'wait_' || n, n FROM generate_series(1, 350) AS numbers (n)""",
            INSTANCE,
        )
        found = await waiter.register(connection, wait_351=WaitRequest(event_type=PAGE_VIEW))
    assert 350 < len(found) < 1000  # the payload of the workflow stays small
    assert _ids(found) == _ids(seen)[: len(found)]


async def test_each_statement_reads_a_bounded_number_of_events(
    waiter: Waiter, database: Database, owner: Connection
) -> None:
    await waiter.does(PAGE_VIEW, 2 * MANY)
    [wanted] = await waiter.does(PURCHASE)
    await owner.execute("ANALYZE events")
    async with database.transaction() as connection:
        # All events are one person's, so the planner may prefer to read and sort the whole table.
        for node in ("seqscan", "bitmapscan", "sort"):
            await connection.execute(f"SET LOCAL enable_{node} = off")
        key = await waiter.key(connection)
        asked = {"wait": WaitRequest(event_type=PURCHASE)}

        async def find() -> None:
            found = await waits.already_recorded(connection, key, INSTANCE, waiter.user_id, asked)
            assert _ids(found) == [wanted.event_id]

        read = [plan.rows_read("events") for plan in await explained(connection, find)]
    assert sum(read) == 2 * MANY + 1
    assert max(read) <= 1000


async def test_a_replayed_instance_is_signalled_events_that_came_after_its_failure(
    waiter: Waiter, database: Database, cipher: Cipher
) -> None:
    """Events before the wait's ``since`` don't count, and there are more of them than one page has."""
    await waiter.does(PAGE_VIEW, MANY)
    since = waiter.next_at
    async with database.transaction() as connection:
        await waiter.register(connection, wait=WaitRequest(event_type="engagement.*", since=since))
    wanted = await waiter.does(PAGE_VIEW, 2)
    now = datetime.now(UTC)
    letter = StoredDeadLetter(
        *("dl-1", "onboarding", INSTANCE, waiter.user_id, "outside", "run-1", "ValueError", None, 1),
        *(DeadLetterStatus.REPLAYING, now, now),
    )
    async with database.transaction() as connection:
        await replays.signal_missed_events(connection, cipher, letter)
        signalled = await connection.fetch(
            "SELECT event_id FROM temporal_outbox WHERE step = 'wait' ORDER BY outbox_id"
        )
    assert [row["event_id"] for row in signalled] == _ids(wanted)
