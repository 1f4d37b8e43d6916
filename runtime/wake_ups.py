"""Wake-ups by LISTEN and NOTIFY: one connection listens for all waiters of a process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from runtime.database import UNREACHABLE, Database

_LISTEN_AGAIN_SECONDS = 1.0


class WakeUp:
    """A waiter's wake-up. A notification between two waits ends the second at once."""

    def __init__(self) -> None:
        self._notified = asyncio.Event()

    def notify(self) -> None:
        self._notified.set()

    async def wait(self, seconds: float) -> None:
        """Wait for a notification since the last wait, at most ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._notified.wait()
        self._notified.clear()


class WakeUps:
    """Notifications of one channel. It holds a connection only while a task subscribes.

    A restart of Postgres loses notifications, so waiters also poll.
    """

    def __init__(self, database: Database, channel: str) -> None:
        self._database = database
        self._channel = channel
        self._subscribed: set[WakeUp] = set()
        self._listening: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def subscribe(self) -> AsyncIterator[WakeUp]:
        wake_up = WakeUp()
        self._subscribed.add(wake_up)
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        try:
            yield wake_up
        finally:
            self._subscribed.discard(wake_up)
            if not self._subscribed and self._listening is not None:
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
        """Listen until the connection breaks."""
        broken = asyncio.Event()

        def notified(*_: Any) -> None:
            for wake_up in self._subscribed:
                wake_up.notify()

        def ended(*_: Any) -> None:
            broken.set()

        async with self._database.session() as connection:
            connection.add_termination_listener(ended)
            await connection.add_listener(self._channel, notified)
            notified()  # earlier notifications are lost, so each waiter reads once
            await broken.wait()
