"""A notification wakes who follows the log, at once, and again after Postgres was away."""

from __future__ import annotations

import asyncio
import time

from runtime.database import Database
from runtime.wake_ups import WakeUps
from store.connection import Connection

LONG = 20.0


async def notified(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("NOTIFY rung")


async def listening(connection: Connection) -> int:
    count: int = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND application_name = 'perennial-test'"
    )
    return count


async def until_listening(database: Database, count: int) -> None:
    async with asyncio.timeout(LONG), database.connection() as connection:
        while await listening(connection) != count:
            await asyncio.sleep(0.01)


async def test_a_notification_rings_every_bell_and_one_connection_listens(database: Database) -> None:
    wake_ups = WakeUps(database, "rung")
    async with wake_ups.bell() as one, wake_ups.bell() as other:
        await until_listening(database, 1)
        await asyncio.gather(one.wait(LONG), other.wait(LONG))  # a first ring: what came before isn't known
        waiting = asyncio.gather(one.wait(LONG), other.wait(LONG))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        async with asyncio.timeout(LONG / 2):
            await notified(database)
            await waiting
    await until_listening(database, 0)


async def test_a_ring_before_the_wait_is_kept_and_without_one_the_wait_ends(database: Database) -> None:
    async with WakeUps(database, "rung").bell() as bell:
        await bell.wait(LONG)
        await notified(database)
        await asyncio.sleep(0.1)
        async with asyncio.timeout(LONG / 2):
            await bell.wait(LONG)
            began = time.monotonic()
            await bell.wait(0.1)
        assert time.monotonic() - began > 0.09


async def test_a_broken_connection_is_replaced(database: Database) -> None:
    async with WakeUps(database, "rung").bell() as bell:
        await until_listening(database, 1)
        await bell.wait(LONG)
        async with database.connection() as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            )
        await asyncio.wait_for(bell.wait(LONG), 5)
        await until_listening(database, 1)
        await notified(database)
        await asyncio.wait_for(bell.wait(LONG), 1)
