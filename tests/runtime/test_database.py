"""State of a session ends with it."""

from __future__ import annotations

import asyncio

import pytest

from activities.partitions import PartitionDropper, owner_database
from runtime.database import Database
from runtime.embedded.postgres import EmbeddedPostgres
from runtime.wake_ups import WakeUps

LOCK = 0x7465_7374


async def _until(database: Database, condition: str, *values: object) -> None:
    async with asyncio.timeout(20), database.connection() as connection:
        while not await connection.fetchval(f"SELECT {condition}", *values):
            await asyncio.sleep(0.01)


async def test_a_lock_of_a_cancelled_statement_ends_with_its_session(database: Database) -> None:
    # Postgres keeps a session lock when the statement fails, and the caller can't know that it was granted.
    async def lock() -> None:
        async with database.session() as connection:
            await connection.fetchval("SELECT pg_advisory_lock($1), pg_sleep(600)", LOCK)

    locking = asyncio.create_task(lock())
    held = "EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = $1)"
    await _until(database, held, LOCK)
    locking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await locking
    await _until(database, f"NOT {held}", LOCK)


async def test_a_connection_that_has_listened_does_not_return_to_the_pool(database: Database) -> None:
    listening = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%rung%'"
    async with WakeUps(database, "rung").subscribe():
        await _until(database, f"EXISTS ({listening})")
        async with database.connection() as connection:
            pid = await connection.fetchval(listening)
    await _until(database, "NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid)


async def test_a_connection_that_has_held_the_lock_of_the_partitions_does_not_return_to_the_pool(
    database: Database, postgres: EmbeddedPostgres
) -> None:
    owner = owner_database(postgres.owner_url)
    await owner.open()
    try:
        async with PartitionDropper(owner)._locked() as connection:
            pid = connection.get_server_pid()
        await _until(database, "NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid)
    finally:
        await owner.close()
