"""Waits for sessions that are blocked in Postgres."""

from __future__ import annotations

import asyncio

from runtime.database import Database


async def until_blocked(database: Database, sessions: int) -> None:
    """Wait until at least ``sessions`` sessions wait for a lock."""
    async with database.connection() as connection, asyncio.timeout(60):
        count = "SELECT count(*) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0"
        while await connection.fetchval(count) < sessions:
            await asyncio.sleep(0.01)
