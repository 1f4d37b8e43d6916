"""Rollups equal a plain recomputation over the log, however events arrive and are divided."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.encryption import Cipher
from runtime.database import Database
from store.connection import Connection
from store.events import log as store_log
from store.events import poison
from store.rollups import compaction
from store.users import data_keys
from tests.rollups.plain import compact, plain, rows, stored
from tests.support.log import NOON, Happening, Log, click, purchase

DIMENSIONS = [None, {"country": "DE"}, {"country": "FR", "device_type": "tv"}, {"plan": "pro"}, {"plan": 1.5}]
WRITTEN = (
    *("events", "sessions", "transactions", "poison_events"),
    *("rollup_hours", "rollup_sessions", "rollup_people", "rollup_index"),
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["view", "lesson.finish", "0.10", "19.99", "-0.30", "999999999999.999999", "poison"]),
        st.integers(-90_000, 90_000),
        st.sampled_from(["s-1", "s-2", "workflow:x"]),
        st.sampled_from(["USD", "EUR"]),
        st.sampled_from(DIMENSIONS),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=14,
)


@pytest.fixture
def log(database: Database, cipher: Cipher) -> Log:
    return Log(database, cipher)


def happening(people: list[str], drawn: Any) -> Happening:
    what, seconds, session, currency, dimensions, person = drawn
    when: dict[str, Any] = {
        "timestamp": NOON + timedelta(seconds=seconds, microseconds=seconds % 7),
        "session_id": session,
        "dimensions": dimensions,
    }
    if what == "poison":
        return click(people[person], 7, **when)
    if what[0].isalpha():
        kind = "engagement.page_view" if what == "view" else what
        return Happening(people[person], kind, **when)
    refund = {"event_type": "transaction.refund"} if what.startswith("-") else {}
    return purchase(people[person], what.removeprefix("-"), currency, **refund, **when)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EVENTS, st.integers(1, 5), st.integers(1, 3))
async def test_rollups_equal_a_plain_recomputation(
    log: Log, owner: Connection, drawn: list[Any], size: int, batch: int
) -> None:
    for table in WRITTEN:
        await owner.execute(f"DELETE FROM {table}")
    people = [await log.person() for _ in range(3)]
    happenings = [happening(people, each) for each in drawn]
    for start in range(0, len(happenings), size):
        await log.write(*happenings[start : start + size])
        await log.project()
        if start % 2:
            await compact(log.database, batch)
    await compact(log.database, batch)
    assert await stored(owner) == await plain(owner)


async def test_a_replayed_event_is_counted_once(log: Log, owner: Connection) -> None:
    user = await log.person()
    await log.write(Happening(user), click(user, 7, event_id="e-1"))
    await log.project()
    key = await data_keys.require(owner, log.cipher, user)
    body = key.encrypt_json("events.body", {"event_properties": {"feature": "search"}}, "e-1")
    await owner.execute("UPDATE events SET body = $1 WHERE event_id = 'e-1'", body)
    poison_id = await owner.fetchval("SELECT poison_id FROM poison_events")
    for _ in range(2):
        async with log.database.transaction() as connection:
            if await connection.fetchval("SELECT status FROM poison_events") == "open":
                await poison.replay(connection, log.cipher, (), poison_id)
    await compact(log.database)
    assert await stored(owner) == await plain(owner)
    assert sum(row[3] for row in (await stored(owner))["hours"]) == 2


async def test_a_compactor_that_dies_before_its_commit_has_folded_nothing(log: Log, owner: Connection) -> None:
    user = await log.person()
    await log.write(Happening(user), purchase(user, "19.99"))
    await log.project()
    waiting = await rows(owner, "rollup_deltas")
    async with log.database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await compaction.compact(connection)
        await transaction.rollback()
    assert await rows(owner, "rollup_deltas") == waiting
    assert not await rows(owner, "rollup_hours")
    await compact(log.database)
    assert await stored(owner) == await plain(owner)


async def test_compactors_at_once_fold_each_delta_once(log: Log, owner: Connection) -> None:
    people = [await log.person(shard) for shard in (0, 1, 2, 3)]
    for number in range(8):
        await log.write(*(Happening(user, timestamp=NOON + timedelta(seconds=number)) for user in people))
        await log.project()
    await asyncio.gather(*(compact(log.database, 3) for _ in range(3)))
    assert await stored(owner) == await plain(owner)


async def test_shards_append_to_one_hour_without_waiting_for_each_other(log: Log, owner: Connection) -> None:
    first, second = await log.person(0), await log.person(1)
    await log.write(Happening(first), Happening(second))
    await log.project()  # registers the series
    await log.write(Happening(first), Happening(second))
    async with log.database.transaction() as held:
        # A projector of shard 0 that has written its effects, and not committed yet.
        follower = log.follower(0)
        follower._cursor = await store_log.cursor(held, "projector", 0)
        logged = await store_log.read(held, 0, follower._cursor, 100)
        await follower._write(held, await follower._project(held, logged))
        async with asyncio.timeout(5):
            await log.project([1])
    await compact(log.database)
    assert await stored(owner) == await plain(owner)
