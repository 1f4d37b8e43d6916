"""Resident memory of processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import psutil

_EVERY_SECONDS = 0.1
MIB = 1 << 20


@asynccontextmanager
async def watched(pids: Mapping[str, int]) -> AsyncIterator[dict[str, float]]:
    """Sample processes until the block ends; yields the highest MiB of each, updated meanwhile."""
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
    """MiB of a process; 0 where it has ended."""
    try:
        return float(psutil.Process(pid).memory_info().rss) / MIB
    except psutil.NoSuchProcess:
        return 0.0
