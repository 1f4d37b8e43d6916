"""How much memory processes take while something goes on: the most that was seen, resident."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import psutil

_EVERY_SECONDS = 0.1
MIB = 1 << 20


@asynccontextmanager
async def watched(pids: Mapping[str, int]) -> AsyncIterator[dict[str, float]]:
    """Watch some processes; gives what fills with the most MiB of each."""
    most = dict.fromkeys(pids, 0.0)

    async def watch() -> None:
        while True:
            for name, pid in pids.items():
                most[name] = max(most[name], resident(pid))
            await asyncio.sleep(_EVERY_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        yield most
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def resident(pid: int) -> float:
    """MiB of a process in memory; 0 where it has gone."""
    try:
        return float(psutil.Process(pid).memory_info().rss) / MIB
    except psutil.NoSuchProcess:
        return 0.0
