"""Tells consumers of the log that there is something new."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import asyncpg

from runtime.database import UNREACHABLE, Database
from store.events import log

_QUIET_SECONDS = 0.01


class Notifier:
    """Sends NOTIFY after commits, on a connection of its own, at most once in 10 ms.

    A NOTIFY inside of the transactions would let them commit only one after the other.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to tell."""
        await self._database.open()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self._database.close()

    def wake(self) -> None:
        """There is something; said at once, or up to 10 ms after it was said last."""
        self._due.set()

    async def _run(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            with suppress(asyncpg.PostgresError, *UNREACHABLE):  # consumers look by themselves as well
                async with self._database.connection() as connection:
                    await log.notify(connection)
            await asyncio.sleep(_QUIET_SECONDS)
