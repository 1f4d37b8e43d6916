"""A notification of Postgres wakes all waiting tasks of a process, also after a lost connection."""

from __future__ import annotations

import asyncio
import time

from runtime.database import Database
from runtime.wake_ups import WakeUps
from store.connection import Connection

LONG = 20.0


async def notify(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("NOTIFY test_channel")


async def listening(connection: Connection) -> int:
    count: int = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND application_name = 'perennial-test'"
    )
    return count


async def until_listening(database: Database, count: int) -> None:
    async with asyncio.timeout(LONG), database.connection() as connection:
        while await listening(connection) != count:
            await asyncio.sleep(0.01)


async def test_a_notification_wakes_all_tasks_through_one_connection(database: Database) -> None:
    wake_ups = WakeUps(database, "test_channel")
    async with wake_ups.subscribe() as one, wake_ups.subscribe() as other:
        await until_listening(database, 1)
        await asyncio.gather(one.wait(LONG), other.wait(LONG))  # ends at once: earlier ones are unknown
        waiting = asyncio.gather(one.wait(LONG), other.wait(LONG))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        async with asyncio.timeout(LONG / 2):
            await notify(database)
            await waiting
    await until_listening(database, 0)


async def test_a_notification_before_the_wait_is_kept_and_a_wait_without_one_times_out(database: Database) -> None:
    async with WakeUps(database, "test_channel").subscribe() as task:
        await task.wait(LONG)
        await notify(database)
        await asyncio.sleep(0.1)
        async with asyncio.timeout(LONG / 2):
            await task.wait(LONG)
            began = time.monotonic()
            await task.wait(0.1)
        assert time.monotonic() - began > 0.09


async def test_a_broken_connection_is_replaced(database: Database) -> None:
    async with WakeUps(database, "test_channel").subscribe() as task:
        await until_listening(database, 1)
        await task.wait(LONG)
        async with database.connection() as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            )
        await asyncio.wait_for(task.wait(LONG), 5)
        await until_listening(database, 1)
        await notify(database)
        await asyncio.wait_for(task.wait(LONG), 1)
