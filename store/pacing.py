"""Divides long work of one request, so that the event loop serves other requests meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

_TURN_SECONDS = 0.005
Item = TypeVar("Item")
Result = TypeVar("Result")


class Pace:
    """Call :meth:`rest` between the parts of a long computation; a part should take well under 5 ms."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def rest(self) -> None:
        """Let the event loop serve other requests, if 5 ms have passed since it last did."""
        if time.perf_counter() - self._began >= _TURN_SECONDS:
            await asyncio.sleep(0)
            self._began = time.perf_counter()


async def each(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``[function(item) for item in items]``, with rests between the items."""
    pace, results = Pace(), list[Result]()
    for item in items:
        results.append(function(item))
        await pace.rest()
    return results
