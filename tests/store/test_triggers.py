"""The cost of a triggered start in Postgres."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from models.instances import NewInstance
from models.rules.sharding import SHARDS
from privacy.encryption import Cipher
from runtime.database import Database
from store.connection import Connection
from store.instances import terminal, transitions, triggers
from store.users import data_keys
from testing.people import Customer
from tests.support.plans import explained

OTHERS = 10_000
FEW = 20
"""Blocks of the written row, and of the indexes to the row and to the event."""


async def _fill(owner: Connection, moment: datetime) -> None:
    """Insert events of many other people, within some seconds."""
    await owner.fetchval("SELECT ensure_events_partition($1)", moment.date().replace(day=1))
    await owner.execute(
        f"""INSERT INTO events (event_id, user_id, event_type, timestamp, session_id, shard, generation,
                                historical, body)
            SELECT 'e-' || n, 'other-' || n, 'user.signup', $1::timestamptz + interval '1 ms' * n, 's',
                   n % {SHARDS}, 1, false, '\\x00'
            FROM generate_series(0, $2::integer - 1) AS numbers (n)""",
        moment,
        OTHERS,
    )


async def test_the_event_that_started_an_instance_is_found_without_reading_others_of_its_month(
    database: Database, owner: Connection, cipher: Cipher, customer: Customer
) -> None:
    """The statement is a part of each triggered start, and a month has many events of other people."""
    moment = datetime(2026, 3, 14, 12, tzinfo=UTC)
    await _fill(owner, moment)
    async with database.transaction() as connection:
        key = await data_keys.require(connection, cipher, customer.user_id)
        new = NewInstance("i-1", "onboarding", customer.user_id, 3, {}, "trigger")
        await transitions.insert(connection, key, new)
        received_at = await connection.fetchval(
            """INSERT INTO events (event_id, user_id, event_type, timestamp, session_id, shard, generation,
                                   historical, body)
               VALUES ('started', $1, 'user.signup', $2, 's', 0, 1, false, '\\x00') RETURNING received_at""",
            customer.user_id,
            moment,
        )
    await owner.execute("ANALYZE events")
    async with database.transaction() as connection:
        [plan] = await explained(
            connection, lambda: transitions.record_trigger(connection, "i-1", "started", moment)
        )
        await transitions.record_trigger(connection, "i-1", "started", moment)
        stored = await connection.fetchrow("SELECT trigger_event_id, events_since, events_from FROM instances")
    assert plan.rows_read("events") == 1
    assert plan.blocks < FEW
    assert stored is not None
    assert tuple(stored) == ("started", received_at, moment)


async def test_a_start_that_is_delivered_again_does_not_move_its_window(
    database: Database, customer: Customer
) -> None:
    new, other = (NewInstance(each, "leaver", customer.user_id, 3, {}, "trigger") for each in ("i-1", "i-2"))
    week = timedelta(days=7)
    async with database.connection() as connection:
        assert await triggers.open_window(connection, new, week)
        await connection.execute("UPDATE trigger_windows SET opened_at = now() - interval '3 days'")
        opened_at = await connection.fetchval("SELECT opened_at FROM trigger_windows")
        assert await triggers.open_window(connection, new, week)
        assert await connection.fetchval("SELECT opened_at FROM trigger_windows") == opened_at
        assert not await triggers.open_window(connection, other, week)
        await connection.execute("UPDATE trigger_windows SET opened_at = now() - interval '8 days'")
        assert await triggers.open_window(connection, other, week)


async def test_an_instance_of_another_that_never_started_leaves_a_window_closed(
    database: Database, owner: Connection, cipher: Cipher, customer: Customer
) -> None:
    async with database.transaction() as connection:
        key = await data_keys.require(connection, cipher, customer.user_id)
        for user_id, instance_id in (("other", "i-0"), (customer.user_id, "i-1")):
            new = NewInstance(instance_id, "onboarding", user_id, 3, {}, "trigger")
            assert await triggers.open_window(connection, new, timedelta(days=7))
            await transitions.insert(connection, key, new)
    await owner.execute("UPDATE instances SET reason = 'not_started', run_id = NULL WHERE instance_id = 'i-0'")
    async with database.transaction() as connection:
        again = NewInstance("i-2", "onboarding", customer.user_id, 3, {}, "trigger")
        assert not await triggers.open_window(connection, again, timedelta(days=7))


@pytest.mark.parametrize("key_digest", [None, b"of the invoice"])
async def test_an_instance_that_was_cancelled_before_its_start_holds_no_window(
    database: Database, cipher: Cipher, customer: Customer, key_digest: bytes | None
) -> None:
    cancelled, again, third = (
        NewInstance(each, "dunning", customer.user_id, 3, {}, "trigger", key_digest=key_digest)
        for each in ("i-1", "i-2", "i-3")
    )
    week = timedelta(days=7)
    async with database.transaction() as connection:
        key = await data_keys.require(connection, cipher, customer.user_id)
        assert await triggers.open_window(connection, cancelled, week)
        await transitions.insert(connection, key, cancelled)
        assert not await triggers.open_window(connection, again, week)
        await terminal.end_unstarted(connection, "i-1", timedelta())
        assert await triggers.open_window(connection, again, week)
        await transitions.insert(connection, key, again)
        assert not await triggers.open_window(connection, third, week)
