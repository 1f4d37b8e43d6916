"""Opt-outs, erasure and retention leave the rollups as a recomputation would make them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from privacy.encryption import Cipher
from runtime.database import Database
from store.connection import Connection
from store.rollups import compaction, forgetting
from tests.rollups.plain import compact, plain, stored
from tests.support.log import NOON, Happening, Log, purchase
from tests.support.redactions import redact_all

DAY = timedelta(days=1)
PLACE = {"country": "DE", "device_type": "tv"}


@pytest.fixture
def log(database: Database, cipher: Cipher) -> Log:
    return Log(database, cipher)


async def opt_out(owner: Connection, user: str) -> None:
    await owner.execute("""UPDATE users SET privacy_preferences = '{"country": false}' WHERE user_id = $1""", user)
    await owner.execute("INSERT INTO redactions (user_id) VALUES ($1)", user)


@pytest.mark.parametrize("folded", [True, False])
async def test_an_opt_out_takes_counted_events_out_of_their_series(
    log: Log, owner: Connection, folded: bool
) -> None:
    user, other = await log.person(), await log.person()
    events = [
        Happening(user, timestamp=NOON, dimensions=PLACE),
        Happening(user, timestamp=NOON + DAY, dimensions=PLACE),
        Happening(other, timestamp=NOON, dimensions=PLACE),
        purchase(user, "19.99", dimensions={"country": "DE", "currency": "USD"}),
    ]
    await log.write(*events)
    await log.project()
    if folded:
        await compact(log.database)
    await opt_out(owner, user)
    await redact_all(log.database, log.cipher)
    await compact(log.database)
    left = await stored(owner)
    assert left == await plain(owner)
    assert sum("DE" in row[1] for row in left["hours"]) == 1


async def test_an_event_that_is_redacted_before_it_is_counted_is_counted_once(log: Log, owner: Connection) -> None:
    user = await log.person()
    await log.write(Happening(user, dimensions=PLACE))
    await log.project()
    await log.write(Happening(user, dimensions=PLACE))
    await opt_out(owner, user)
    await redact_all(log.database, log.cipher)
    await log.project()
    await compact(log.database)
    assert await stored(owner) == await plain(owner)


async def test_a_redaction_waits_for_a_projector_that_has_read_the_event(
    log: Log, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await log.person(0)
    await log.write(Happening(user, dimensions=PLACE))
    await opt_out(owner, user)
    follower = log.follower(0)
    read, go_on = asyncio.Event(), asyncio.Event()
    project = follower._project

    async def paused(*arguments: Any) -> Any:
        read.set()
        await go_on.wait()
        return await project(*arguments)

    monkeypatch.setattr(follower, "_project", paused)
    projecting = asyncio.create_task(follower.step())
    await read.wait()
    redacting = asyncio.create_task(redact_all(log.database, log.cipher))
    while not await owner.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
        await asyncio.sleep(0.01)
    go_on.set()
    await asyncio.gather(projecting, redacting)
    await compact(log.database)
    assert await stored(owner) == await plain(owner)
    assert not [row for row in (await stored(owner))["hours"] if "DE" in row[1]]


@pytest.mark.parametrize("folded", [True, False])
async def test_a_forgotten_person_leaves_counts_alone(log: Log, owner: Connection, folded: bool) -> None:
    user, other = await log.person(), await log.person()
    for number in range(12):
        await log.write(
            Happening(user, timestamp=NOON + number * DAY, dimensions=PLACE),
            Happening(other, timestamp=NOON + number * DAY, dimensions=PLACE),
            purchase(user, "19.99", timestamp=NOON + number * DAY),
        )
        await log.project()
        if folded or number % 2:
            await compact(log.database)
    everything = await plain(owner)
    person = await owner.fetchval("SELECT person FROM users WHERE user_id = $1", user)

    async def forget() -> None:
        async with log.database.transaction() as connection:
            await forgetting.forget(connection, person)

    await asyncio.gather(forget(), compact(log.database, 1))  # in either order
    await compact(log.database)
    left = await stored(owner)
    assert (left["hours"], left["sessions"]) == (everything["hours"], everything["sessions"])
    await owner.execute("DELETE FROM users WHERE person = $1", person)
    rest = await plain(owner)
    assert (left["people"], left["index"]) == (rest["people"], rest["index"])


async def test_persons_of_expired_days_go_and_counts_stay(log: Log, owner: Connection) -> None:
    user = await log.person()
    times = [NOON - 40 * DAY, NOON - 2 * DAY, NOON - timedelta(hours=6), NOON]
    await log.write(*(Happening(user, timestamp=each) for each in times))
    await log.project()
    await compact(log.database)
    before = await stored(owner)
    async with log.database.transaction() as connection:
        gone = await forgetting.expire(connection, NOON - timedelta(hours=1))
    assert gone == {"rollup_people": 4, "rollup_index": 1}
    after = await stored(owner)
    assert after["hours"] == before["hours"]
    assert {row[0] for row in after["people"]} == {NOON.date()}
    assert sorted(each[2] for each in after["index"]) == times[2:]


async def test_a_forgetting_that_is_rolled_back_changes_nothing(log: Log, owner: Connection) -> None:
    user = await log.person()
    await log.write(Happening(user))
    await log.project()
    await compact(log.database)
    await log.write(Happening(user))
    await log.project()
    person = await owner.fetchval("SELECT person FROM users WHERE user_id = $1", user)
    async with log.database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await forgetting.forget(connection, person)
        await transaction.rollback()
        async with connection.transaction():
            await compaction.compact(connection)
    assert await stored(owner) == await plain(owner)
