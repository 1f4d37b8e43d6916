"""Being woken by Postgres: one connection that listens, shared by all of a process that wait for a channel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from runtime.database import UNREACHABLE, Database

_LISTEN_AGAIN_SECONDS = 1.0


class WakeUp:
    """Rings for one who waits. A ring while nobody waits is kept."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake who waits."""
        self._rung.set()

    async def wait(self, seconds: float) -> None:
        """Wait for a ring since the last wait, or some seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        self._rung.clear()


class WakeUps:
    """Notifications of one channel. A connection is held only while somebody waits.

    They may be lost when Postgres restarts, so that who waits looks by himself now and then as well.
    """

    def __init__(self, database: Database, channel: str) -> None:
        self._database = database
        self._channel = channel
        self._bells: set[WakeUp] = set()
        self._listening: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def bell(self) -> AsyncIterator[WakeUp]:
        """A bell that each notification rings."""
        bell = WakeUp()
        self._bells.add(bell)
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        try:
            yield bell
        finally:
            self._bells.discard(bell)
            if not self._bells and self._listening is not None:
                listening, self._listening = self._listening, None
                listening.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await listening

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(*UNREACHABLE):
                await self._listen_on_one_connection()
            await asyncio.sleep(_LISTEN_AGAIN_SECONDS)

    async def _listen_on_one_connection(self) -> None:
        """Until it breaks."""
        broken = asyncio.Event()

        def heard(*_: Any) -> None:
            for bell in self._bells:
                bell.ring()

        def ended(*_: Any) -> None:
            broken.set()

        async with self._database.session() as connection:
            connection.add_termination_listener(ended)
            await connection.add_listener(self._channel, heard)
            heard()  # what was notified before isn't known
            await broken.wait()
