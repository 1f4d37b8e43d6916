"""Each reason to be degraded, at its limit: rows of a real database that are just young or just too old."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date, timedelta
from pathlib import Path

import asyncpg
import pytest

from checks import progress
from checks.health import FRESH_SECONDS, Health
from checks.unmet import Unmet
from privacy.encryption import Cipher
from privacy.keyring import KeyFile
from runtime.database import Database
from runtime.settings import Settings
from store.connection import Connection
from testing.people import Customer
from tests.support.log import Log, purchase

A_SECOND = timedelta(seconds=1)


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[Connection]:
    async with database.connection() as connection:
        yield connection


@pytest.fixture
def log(database: Database, cipher: Cipher) -> Log:
    return Log(database, cipher)


async def age(owner: Connection, table: str, column: str, by: timedelta) -> None:
    await owner.execute(f"UPDATE {table} SET {column} = now() - $1::interval", by)


def code(unmet: Unmet | None) -> str | None:
    return unmet.code if unmet else None


async def test_a_shard_stands_still_if_events_wait_and_its_cursor_does_not_move(
    connection: Connection, owner: Connection, log: Log
) -> None:
    assert await progress.projector(connection) is None
    await log.write(purchase(await log.person(shard=1), "5.00"))
    assert await progress.projector(connection) is None
    await age(owner, "events", "received_at", progress.STANDS_STILL - A_SECOND)
    assert await progress.projector(connection) is None
    await age(owner, "events", "received_at", progress.STANDS_STILL + A_SECOND)
    found = await progress.projector(connection)
    assert code(found) == "projector_stands_still"
    assert found is not None
    assert "in 1 of 4 shards" in found.sentence
    await log.project()
    assert await progress.projector(connection) is None  # nothing waits

    await log.write(purchase(await log.person(shard=1), "6.00"))
    await age(owner, "events", "received_at", timedelta(hours=1))
    assert await progress.projector(connection) is None  # the cursor has just moved: it works off a backlog
    await age(owner, "log_cursors", "moved_at", progress.STANDS_STILL + A_SECOND)
    assert code(await progress.projector(connection)) == "projector_stands_still"


async def test_an_outbox_stands_still_or_fails(connection: Connection, owner: Connection) -> None:
    assert await progress.outbox(connection) is None
    await owner.execute(
        """INSERT INTO temporal_outbox (kind, workflow_id, instance_id, user_id, event_id, event_type,
                                        event_timestamp, due_at, attempts)
           VALUES ('start', 'w', 'i', 'u-1', 'e', 't.t', now(), now() + interval '1 h', $1)""",
        progress.OUTBOX_ATTEMPTS - 1,
    )
    assert await progress.outbox(connection) is None  # due later
    await age(owner, "temporal_outbox", "due_at", progress.OUTBOX_BEHIND - A_SECOND)
    assert await progress.outbox(connection) is None
    await age(owner, "temporal_outbox", "due_at", progress.OUTBOX_BEHIND + A_SECOND)
    assert code(await progress.outbox(connection)) == "outbox_stands_still"
    await owner.execute("UPDATE temporal_outbox SET due_at = now(), attempts = attempts + 1")
    assert code(await progress.outbox(connection)) == "outbox_fails"
    await owner.execute("UPDATE temporal_outbox SET dead = true, due_at = now() - interval '1 h'")
    assert code(await progress.outbox(connection)) == "outbox_fails"


async def test_an_outbox_that_works_off_a_backlog_does_not_stand_still(
    connection: Connection, owner: Connection
) -> None:
    await owner.execute(
        """INSERT INTO temporal_outbox (kind, workflow_id, instance_id, user_id, event_id, event_type,
                                        event_timestamp, due_at)
           SELECT 'start', 'w', 'i' || number, 'u-1', 'e' || number, 't.t', now(), now() - interval '1 h'
           FROM generate_series(1, 100) AS numbers (number)"""
    )
    found = asyncio.create_task(progress.outbox(connection))
    await asyncio.sleep(0.2)
    await owner.execute(
        "DELETE FROM temporal_outbox WHERE outbox_id = (SELECT min(outbox_id) FROM temporal_outbox)"
    )
    assert await found is None
    assert code(await progress.outbox(connection)) == "outbox_stands_still"


async def test_a_redaction_that_waits_is_told(
    connection: Connection, owner: Connection, customer: Customer
) -> None:
    await owner.execute("INSERT INTO redactions (user_id) VALUES ($1)", customer.user_id)
    await age(owner, "redactions", "requested_at", progress.REDACTIONS_BEHIND - A_SECOND)
    assert await progress.redactions(connection) is None
    await age(owner, "redactions", "requested_at", progress.REDACTIONS_BEHIND + A_SECOND)
    assert code(await progress.redactions(connection)) == "redactions_behind"


async def test_a_key_ring_that_opens_nothing_is_told_and_one_damaged_key_is_not(
    connection: Connection, owner: Connection, cipher: Cipher, log: Log, tmp_path: Path
) -> None:
    other = KeyFile(tmp_path / "other.json")
    other.create()
    stranger = Cipher(other.load())
    assert await progress.key_ring(connection, stranger) is None  # no keys are stored
    people = [await log.person() for _ in range(2)]
    assert await progress.key_ring(connection, cipher) is None
    assert code(await progress.key_ring(connection, stranger)) == "key_ring_opens_nothing"
    await owner.execute("UPDATE data_keys SET wrapped = '\\x01' WHERE subject = $1", people[0])
    assert await progress.key_ring(connection, cipher) is None
    await owner.execute("UPDATE data_keys SET wrapped = NULL")
    assert await progress.key_ring(connection, stranger) is None  # all are destroyed


async def test_the_partition_of_the_next_month_must_be_there(connection: Connection, owner: Connection) -> None:
    today = date(2031, 12, 31)
    assert code(await progress.partitions_ahead(connection, today)) == "partition_missing"
    await owner.execute("SELECT ensure_events_partition('2031-12-01')")
    assert code(await progress.partitions_ahead(connection, today)) == "partition_missing"
    await owner.execute("SELECT ensure_events_partition('2032-01-01')")
    try:
        assert await progress.partitions_ahead(connection, today) is None
        await owner.execute("ALTER TABLE events DETACH PARTITION events_2032_01")
        assert code(await progress.partitions_ahead(connection, today)) == "partition_missing"
    finally:
        await owner.execute("DROP TABLE events_2031_12, events_2032_01")


async def test_an_audit_hour_without_a_checkpoint_is_told(connection: Connection, owner: Connection) -> None:
    assert await progress.audit(connection) is None
    await owner.execute("INSERT INTO audit_log (actor, role, action, outcome) VALUES ('a', 'admin', 'a.b', 'ok')")
    assert await progress.audit(connection) is None
    await owner.execute("UPDATE audit_log SET occurred_at = date_trunc('hour', now()) - interval '1 h'")
    assert await progress.audit(connection) is None
    await owner.execute("UPDATE audit_log SET occurred_at = date_trunc('hour', now()) - interval '4 h'")
    assert code(await progress.audit(connection)) == "audit_behind"


async def test_a_process_with_a_wrong_key_file_is_degraded(
    database: Database, database_url: str, log: Log, owner: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    other = KeyFile(tmp_path / "other.json")
    other.create()
    await log.person()
    found = await Health(Settings(database_url=database_url), database, Cipher(other.load()), None).report()
    assert found.postgres
    assert "key_ring_opens_nothing" in {each.code for each in found.reasons}


async def test_probes_at_once_share_one_look_which_ends_after_a_second(database: Database, cipher: Cipher) -> None:
    """A look that is shared is one object."""
    process = Health(Settings(database_url="postgresql://unused/unused"), database, cipher, None)
    looks = await asyncio.gather(*(process.report() for _ in range(200)))
    assert len({id(look) for look in looks}) == 1
    await asyncio.sleep(FRESH_SECONDS + 0.1)
    assert await process.report() is not looks[0]
