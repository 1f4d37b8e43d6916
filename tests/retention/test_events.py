"""Expired events: whole partitions are dropped, rows of others deleted, and events that weren't projected stay."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from activities.retention import EventPurge
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.embedded.postgres import EmbeddedPostgres
from store.connection import Connection
from store.events.partitions import month_start
from store.retention import periods
from store.retention.runs import RetentionExtendedError
from tests.retention.filling import (
    WHOLE,
    audited,
    begin_purge,
    boundary,
    count,
    fill,
    mark_projected,
    partition_states,
    results,
    with_owner,
)
from tests.support.events import add_user
from tests.support.http import Clients
from tests.support.redactions import redact_all

PARTITION = f"events_{WHOLE:%Y_%m}"
LATER = WHOLE + timedelta(days=31)


async def test_a_whole_partition_is_dropped_with_its_ids_and_sessions(
    database: Database, owner: Connection, postgres: EmbeddedPostgres
) -> None:
    await fill(owner, "old-", WHOLE, LATER, 5000)
    await mark_projected(owner)
    async with with_owner(database, postgres.owner_url) as events:
        await events.run(await begin_purge(database))
    assert PARTITION not in await partition_states(owner)
    assert [await count(owner, table) for table in ("events", "event_ids", "sessions")] == [0, 0, 0]
    expected = {(PARTITION, "dropped"): 5000, ("event_ids", "deleted"): 5000, ("sessions", "deleted"): 5000}
    assert await audited(owner) == expected
    assert await results(owner) == expected


async def test_only_the_expired_rows_of_a_partition_are_deleted(
    database: Database, owner: Connection, postgres: EmbeddedPostgres
) -> None:
    begins = month_start(boundary())
    ends = boundary() + timedelta(hours=6)
    if month_start(ends) != begins:
        ends = boundary()
    await fill(owner, "part-", begins, ends, 4000)
    await mark_projected(owner)
    cutoff = (await begin_purge(database)).older_than
    expected = await count(owner, "events", "timestamp < $1", cutoff)
    async with with_owner(database, postgres.owner_url) as events:
        await events.run(await begin_purge(database))
    name = f"events_{begins:%Y_%m}"
    assert (await partition_states(owner))[name] is False
    found = await audited(owner)
    deleted = found[name, "deleted"]
    assert deleted >= expected
    assert found["event_ids", "deleted"] == deleted, "as a dry run counts them"
    assert await count(owner, "events") == await count(owner, "event_ids") == 4000 - deleted
    assert await count(owner, "events", "timestamp < $1", cutoff) == 0


async def test_without_the_owners_connection_the_rows_of_a_whole_partition_are_deleted_and_recorded_as_deleted(
    database: Database, owner: Connection
) -> None:
    await fill(owner, "old-", WHOLE, LATER, 5000)
    await mark_projected(owner)
    await EventPurge(database, None).run(await begin_purge(database))
    assert (await partition_states(owner))[PARTITION] is False
    assert [await count(owner, table) for table in ("events", "event_ids", "sessions")] == [0, 0, 0]
    expected = {(PARTITION, "deleted"): 5000, ("event_ids", "deleted"): 5000, ("sessions", "deleted"): 5000}
    assert await audited(owner) == expected


@pytest.mark.parametrize("as_owner", [True, False])
async def test_events_that_the_projector_has_not_read_stay(
    database: Database, owner: Connection, postgres: EmbeddedPostgres, as_owner: bool
) -> None:
    await fill(owner, "read-", WHOLE, LATER, 300)
    await mark_projected(owner)
    await fill(owner, "unread-", WHOLE, LATER, 200)
    async with with_owner(database, postgres.owner_url) as events:
        await (events if as_owner else EventPurge(database, None)).run(await begin_purge(database))
        left = 500 if as_owner else 200
        assert await count(owner, "events") == await count(owner, "event_ids") == left
        assert await count(owner, "sessions") == 500
        assert (await results(owner))[PARTITION, "held"] == left
        await mark_projected(owner)
        await events.run(await begin_purge(database))
    assert [await count(owner, table) for table in ("events", "event_ids", "sessions")] == [0, 0, 0]
    found = await audited(owner)
    assert found[PARTITION, "dropped"] + found[PARTITION, "deleted"] == 500


async def test_a_partition_that_got_events_while_it_was_detaching_is_attached_again(
    database: Database, owner: Connection, postgres: EmbeddedPostgres
) -> None:
    await fill(owner, "old-", WHOLE, LATER, 100)
    await mark_projected(owner)
    async with with_owner(database, postgres.owner_url) as events, database.connection() as connection:
        late = connection.transaction()
        await late.start()
        await connection.execute(
            """INSERT INTO events (event_id, user_id, event_type, timestamp, session_id, shard, generation,
                                   historical, body)
               VALUES ('late', 'u-1', 'lesson.finish', $1, 's', 1, 1, true, '\\x00')""",
            WHOLE,
        )
        removing = asyncio.create_task(events.run(await begin_purge(database)))
        async with asyncio.timeout(30):
            while (await partition_states(owner))[PARTITION] is False:
                await asyncio.sleep(0.01)
        await late.commit()
        await removing
        assert (await partition_states(owner))[PARTITION] is False
        assert await count(owner, "events") == 101
        assert await audited(owner) == {}
        await mark_projected(owner)
        await events.run(await begin_purge(database))
    assert (await audited(owner))[PARTITION, "dropped"] == 101


async def test_two_purges_at_once_share_the_work_and_count_each_row_once(
    database: Database, owner: Connection, postgres: EmbeddedPostgres
) -> None:
    begins = month_start(boundary(400))
    await fill(owner, "a-", WHOLE, LATER, 3000)
    await fill(owner, "b-", begins, begins + timedelta(days=28), 3000)
    await mark_projected(owner)
    async with with_owner(database, postgres.owner_url) as one, with_owner(database, postgres.owner_url) as two:
        await asyncio.gather(
            one.run(await begin_purge(database, run_id="one")),
            two.run(await begin_purge(database, run_id="two")),
        )
    found = await audited(owner)
    assert found[PARTITION, "dropped"] == found[f"events_{begins:%Y_%m}", "dropped"] == 3000
    assert found["event_ids", "deleted"] == found["sessions", "deleted"] == 6000


async def test_a_period_that_is_extended_meanwhile_holds_at_once(
    database: Database, owner: Connection, postgres: EmbeddedPostgres
) -> None:
    await fill(owner, "old-", WHOLE, LATER, 100)
    await mark_projected(owner)
    begun = await begin_purge(database)
    async with database.transaction() as connection:
        await periods.change(connection, "events", 3650, actor="an-admin")
    async with with_owner(database, postgres.owner_url) as events:
        with pytest.raises(RetentionExtendedError):
            await events.run(begun)
    await EventPurge(database, None).run(begun)
    assert await count(owner, "events") == await count(owner, "event_ids") == 100


async def test_a_detached_partition_is_attached_again_after_the_period_was_extended(
    database: Database, owner: Connection, postgres: EmbeddedPostgres
) -> None:
    await fill(owner, "old-", WHOLE, LATER, 100)
    await mark_projected(owner)
    begun = await begin_purge(database)
    await owner.execute(f"ALTER TABLE events DETACH PARTITION {PARTITION} CONCURRENTLY")
    async with database.transaction() as connection:
        await periods.change(connection, "events", 3650, actor="an-admin")
    async with with_owner(database, postgres.owner_url) as events:
        with pytest.raises(RetentionExtendedError):
            await events.run(begun)
    assert (await partition_states(owner))[PARTITION] is False
    assert await count(owner, "events") == 100


async def test_an_opt_out_while_a_partition_was_detached_redacts_its_events_once_it_is_attached_again(
    api: Clients, database: Database, owner: Connection, postgres: EmbeddedPostgres, cipher: Cipher
) -> None:
    for user_id in ("u-1", "u-2"):
        await add_user(api.admin, user_id)
    await fill(owner, "old-", WHOLE, LATER, 500)
    await owner.execute('UPDATE events SET dimensions = \'{"country": "DE"}\'')
    await mark_projected(owner)
    begun = await begin_purge(database)
    await owner.execute(f"ALTER TABLE events DETACH PARTITION {PARTITION} CONCURRENTLY")
    await api.admin.patch("/users/u-1", json={"privacy_preferences": {"country": False}})
    await redact_all(database, cipher)
    async with database.transaction() as connection:
        await periods.change(connection, "events", 3650, actor="an-admin")
    async with with_owner(database, postgres.owner_url) as events:
        with pytest.raises(RetentionExtendedError):
            await events.run(begun)
    await redact_all(database, cipher)
    assert await count(owner, "events", "user_id = 'u-1'") > 0
    assert await count(owner, "events", "user_id = 'u-1' AND dimensions IS NOT NULL") == 0
    assert await count(owner, "events", "user_id = 'u-2' AND dimensions IS NULL") == 0


async def test_a_partition_that_cannot_be_detached_stays_detaching_until_the_next_run(
    database: Database, owner: Connection, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activities.partitions.ATTEMPTS", 2)
    monkeypatch.setattr("activities.partitions.LOCK_TIMEOUT", "200ms")
    await fill(owner, "old-", WHOLE, LATER, 100)
    await mark_projected(owner)
    async with with_owner(database, postgres.owner_url) as events:
        async with database.connection() as connection:
            dump = connection.transaction(isolation="repeatable_read")
            await dump.start()
            assert await count(connection, "events") == 100
            await events.run(await begin_purge(database))
            await dump.rollback()
        assert (await partition_states(owner))[PARTITION] is True
        assert (PARTITION, "held") in await results(owner)
        assert await count(owner, "event_ids") == 100
        await EventPurge(database, None).run(await begin_purge(database))  # it needs the owner: held
        await events.run(await begin_purge(database))
    assert (await audited(owner))[PARTITION, "dropped"] == 100
    assert PARTITION not in await partition_states(owner)
