"""Events past their period: whole months are dropped, parts deleted, and nothing that wasn't read."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from activities.expired_events import ExpiredEvents
from activities.purging import RetentionExtendedError
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.embedded.postgres import EmbeddedPostgres
from store.connection import Connection
from store.events.partitions import month_start
from store.retention import periods
from tests.retention.filling import (
    WHOLE,
    audited,
    boundary,
    count,
    fill,
    read_by_the_projector,
    results,
    standings,
    sweeping,
    with_owner,
)
from tests.support.events import add_user
from tests.support.http import Clients
from tests.support.redactions import carry_out

MONTH = f"events_{WHOLE:%Y_%m}"
LATER = WHOLE + timedelta(days=31)


async def test_a_whole_month_is_dropped_with_its_ids_and_sessions(
    database: Database, owner: Connection, postgres: EmbeddedPostgres
) -> None:
    await fill(owner, "old-", WHOLE, LATER, 5000)
    await read_by_the_projector(owner)
    async with with_owner(database, postgres.owner_url) as expired:
        await expired.remove(await sweeping(database))
    assert MONTH not in await standings(owner)
    assert [await count(owner, table) for table in ("events", "event_ids", "sessions")] == [0, 0, 0]
    told = {(MONTH, "dropped"): 5000, ("event_ids", "deleted"): 5000, ("sessions", "deleted"): 5000}
    assert await audited(owner) == told
    assert await results(owner) == told


async def test_of_a_month_that_is_partly_past_only_that_part_goes(
    database: Database, owner: Connection, postgres: EmbeddedPostgres
) -> None:
    begins = month_start(boundary())
    ends = boundary() + timedelta(hours=6)
    if month_start(ends) != begins:
        ends = boundary()
    await fill(owner, "part-", begins, ends, 4000)
    await read_by_the_projector(owner)
    cutoff = (await sweeping(database)).older_than
    expected = await count(owner, "events", "timestamp < $1", cutoff)
    async with with_owner(database, postgres.owner_url) as expired:
        await expired.remove(await sweeping(database))
    name = f"events_{begins:%Y_%m}"
    assert (await standings(owner))[name] is False
    told = await audited(owner)
    gone = told[name, "deleted"]
    assert gone >= expected
    assert told["event_ids", "deleted"] == gone, "as a dry run counts them"
    assert await count(owner, "events") == await count(owner, "event_ids") == 4000 - gone
    assert await count(owner, "events", "timestamp < $1", cutoff) == 0


async def test_without_the_owners_connection_a_month_is_emptied_and_said_to_be(
    database: Database, owner: Connection
) -> None:
    await fill(owner, "old-", WHOLE, LATER, 5000)
    await read_by_the_projector(owner)
    await ExpiredEvents(database, None).remove(await sweeping(database))
    assert (await standings(owner))[MONTH] is False
    assert [await count(owner, table) for table in ("events", "event_ids", "sessions")] == [0, 0, 0]
    told = {(MONTH, "deleted"): 5000, ("event_ids", "deleted"): 5000, ("sessions", "deleted"): 5000}
    assert await audited(owner) == told


@pytest.mark.parametrize("as_owner", [True, False])
async def test_events_that_the_projector_has_not_come_to_stay(
    database: Database, owner: Connection, postgres: EmbeddedPostgres, as_owner: bool
) -> None:
    await fill(owner, "read-", WHOLE, LATER, 300)
    await read_by_the_projector(owner)
    await fill(owner, "unread-", WHOLE, LATER, 200)
    async with with_owner(database, postgres.owner_url) as expired:
        await (expired if as_owner else ExpiredEvents(database, None)).remove(await sweeping(database))
        left = 500 if as_owner else 200
        assert await count(owner, "events") == await count(owner, "event_ids") == left
        assert await count(owner, "sessions") == 500
        assert (await results(owner))[MONTH, "held"] == left
        await read_by_the_projector(owner)
        await expired.remove(await sweeping(database))
    assert [await count(owner, table) for table in ("events", "event_ids", "sessions")] == [0, 0, 0]
    told = await audited(owner)
    assert told[MONTH, "dropped"] + told[MONTH, "deleted"] == 500


async def test_what_was_added_while_a_month_left_is_found_and_the_month_put_back(
    database: Database, owner: Connection, postgres: EmbeddedPostgres
) -> None:
    await fill(owner, "old-", WHOLE, LATER, 100)
    await read_by_the_projector(owner)
    async with with_owner(database, postgres.owner_url) as expired, database.connection() as connection:
        late = connection.transaction()
        await late.start()
        await connection.execute(
            """INSERT INTO events (event_id, user_id, event_type, timestamp, session_id, shard, generation,
                                   historical, body)
               VALUES ('late', 'u-1', 'lesson.finish', $1, 's', 1, 1, true, '\\x00')""",
            WHOLE,
        )
        removing = asyncio.create_task(expired.remove(await sweeping(database)))
        async with asyncio.timeout(30):
            while (await standings(owner))[MONTH] is False:
                await asyncio.sleep(0.01)
        await late.commit()
        await removing
        assert (await standings(owner))[MONTH] is False
        assert await count(owner, "events") == 101
        assert await audited(owner) == {}
        await read_by_the_projector(owner)
        await expired.remove(await sweeping(database))
    assert (await audited(owner))[MONTH, "dropped"] == 101


async def test_two_sweeps_at_once_share_the_work_and_count_each_row_once(
    database: Database, owner: Connection, postgres: EmbeddedPostgres
) -> None:
    begins = month_start(boundary(400))
    await fill(owner, "a-", WHOLE, LATER, 3000)
    await fill(owner, "b-", begins, begins + timedelta(days=28), 3000)
    await read_by_the_projector(owner)
    async with with_owner(database, postgres.owner_url) as one, with_owner(database, postgres.owner_url) as two:
        await asyncio.gather(
            one.remove(await sweeping(database, run_id="one")),
            two.remove(await sweeping(database, run_id="two")),
        )
    told = await audited(owner)
    assert told[MONTH, "dropped"] == told[f"events_{begins:%Y_%m}", "dropped"] == 3000
    assert told["event_ids", "deleted"] == told["sessions", "deleted"] == 6000


async def test_a_period_that_is_lengthened_meanwhile_holds_at_once(
    database: Database, owner: Connection, postgres: EmbeddedPostgres
) -> None:
    await fill(owner, "old-", WHOLE, LATER, 100)
    await read_by_the_projector(owner)
    begun = await sweeping(database)
    async with database.transaction() as connection:
        await periods.change(connection, "events", 3650, actor="an-admin")
    async with with_owner(database, postgres.owner_url) as expired:
        with pytest.raises(RetentionExtendedError):
            await expired.remove(begun)
    await ExpiredEvents(database, None).remove(begun)
    assert await count(owner, "events") == await count(owner, "event_ids") == 100


async def test_a_detached_month_whose_period_is_lengthened_is_put_back(
    database: Database, owner: Connection, postgres: EmbeddedPostgres
) -> None:
    await fill(owner, "old-", WHOLE, LATER, 100)
    await read_by_the_projector(owner)
    begun = await sweeping(database)
    await owner.execute(f"ALTER TABLE events DETACH PARTITION {MONTH} CONCURRENTLY")
    async with database.transaction() as connection:
        await periods.change(connection, "events", 3650, actor="an-admin")
    async with with_owner(database, postgres.owner_url) as expired:
        with pytest.raises(RetentionExtendedError):
            await expired.remove(begun)
    assert (await standings(owner))[MONTH] is False
    assert await count(owner, "events") == 100


async def test_what_was_refused_while_a_month_was_out_goes_from_it_when_it_is_put_back(
    api: Clients, database: Database, owner: Connection, postgres: EmbeddedPostgres, cipher: Cipher
) -> None:
    for user_id in ("u-1", "u-2"):
        await add_user(api.admin, user_id)
    await fill(owner, "old-", WHOLE, LATER, 500)
    await owner.execute('UPDATE events SET dimensions = \'{"country": "DE"}\'')
    await read_by_the_projector(owner)
    begun = await sweeping(database)
    await owner.execute(f"ALTER TABLE events DETACH PARTITION {MONTH} CONCURRENTLY")
    await api.admin.patch("/users/u-1", json={"privacy_preferences": {"country": False}})
    await carry_out(database, cipher)
    async with database.transaction() as connection:
        await periods.change(connection, "events", 3650, actor="an-admin")
    async with with_owner(database, postgres.owner_url) as expired:
        with pytest.raises(RetentionExtendedError):
            await expired.remove(begun)
    await carry_out(database, cipher)
    assert await count(owner, "events", "user_id = 'u-1'") > 0
    assert await count(owner, "events", "user_id = 'u-1' AND dimensions IS NOT NULL") == 0
    assert await count(owner, "events", "user_id = 'u-2' AND dimensions IS NULL") == 0


async def test_a_month_that_cannot_leave_stays_leaving_and_goes_with_the_next_run(
    database: Database, owner: Connection, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activities.expired_months.WAITS", 2)
    monkeypatch.setattr("activities.expired_months.LOCK_TIMEOUT", "200ms")
    await fill(owner, "old-", WHOLE, LATER, 100)
    await read_by_the_projector(owner)
    async with with_owner(database, postgres.owner_url) as expired:
        async with database.connection() as connection:
            dump = connection.transaction(isolation="repeatable_read")
            await dump.start()
            assert await count(connection, "events") == 100
            await expired.remove(await sweeping(database))
            await dump.rollback()
        assert (await standings(owner))[MONTH] is True
        assert (MONTH, "held") in await results(owner)
        assert await count(owner, "event_ids") == 100
        await ExpiredEvents(database, None).remove(await sweeping(database))  # it can't, and says so
        await expired.remove(await sweeping(database))
    assert (await audited(owner))[MONTH, "dropped"] == 100
    assert MONTH not in await standings(owner)
