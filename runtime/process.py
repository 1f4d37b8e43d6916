"""For API and worker processes: readiness, garbage collection and graceful shutdown."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from temporalio.worker import Worker

T = TypeVar("T")


def announce_ready(path: Path | None) -> None:
    """Write this process's id to ``path``, atomically; do nothing for None."""
    if path is None:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(f"{os.getpid()}\n", encoding="ascii")
    temporary.replace(path)


def collect_garbage_rarely(middle: int = 20, oldest: int = 50) -> None:
    """Make the cyclic garbage collector run less often. Call it after the process has started.

    A batch of events allocates tens of thousands of objects and no cycles. Scanning them took a third of the time.
    ``middle`` and ``oldest`` are the collector's thresholds, in collections of the generation before.
    """
    gc.collect()
    gc.freeze()  # never scan the objects of the start again: they stay until the process ends
    gc.set_threshold(50_000, middle, oldest)


def stop_event() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; installs the signal handlers."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


async def unless(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of ``work``. If ``stopping`` is set first, cancels the work and returns None."""
    tasks = working, _ = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def polling(workers: Sequence[Worker]) -> AsyncIterator[None]:
    """Run workers concurrently, and stop them concurrently on exit or when one fails fatally."""
    async with AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker)
        try:
            yield
        finally:
            # The exit stack alone would stop them in sequence, each with its own graceful shutdown time.
            await asyncio.gather(*(worker.shutdown() for worker in workers))
