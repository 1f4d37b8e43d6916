"""A few requests at once, never two that hold the same person."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable


class InFlight:
    """Up to ``limit`` requests at a time.

    One that shares an identity with another under way waits for it, so that what stands later in a file is
    also applied later.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: dict[asyncio.Task[None], frozenset[str]] = {}

    async def add(self, request: Coroutine[None, None, None], identities: Iterable[str]) -> None:
        """Start a request as soon as there is room. Raises what an earlier one raised."""
        mine = frozenset(identities)
        try:
            while len(self._tasks) >= self._limit or not self._free(mine):
                await self._settle()
        except BaseException:
            request.close()
            raise
        self._tasks[asyncio.create_task(request)] = mine
        await asyncio.sleep(0)  # let it go out before the next batch is read

    async def drain(self) -> None:
        """Wait for all. Raises what one of them raised."""
        while self._tasks:
            await self._settle()

    async def cancel(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _free(self, identities: frozenset[str]) -> bool:
        return all(identities.isdisjoint(others) for others in self._tasks.values())

    async def _settle(self) -> None:
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            del self._tasks[task]
        for task in done:
            task.result()
