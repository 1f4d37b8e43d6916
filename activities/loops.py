"""Heartbeats of long activities, and loops that run in turns.

A loop's workflow runs its activity in turns. The activity returns after :data:`TURN_SECONDS`, or when its worker
shuts down; the workflow then continues as new. When the worker dies, Temporal misses the heartbeats and retries
the activity on another worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from temporalio import activity

from runtime.database import UNREACHABLE

logger = logging.getLogger("perennial.loops")

TURN_SECONDS = 60 * 60.0
"""Each turn adds one closed run to the list of the system namespace."""
AWAY_SECONDS = 0.5
"""Pause before the next step while Postgres is unreachable."""


@contextlib.asynccontextmanager
async def heartbeats(details: Callable[[], Any] | None = None) -> AsyncIterator[None]:
    """Send three heartbeats per heartbeat timeout, each with ``details()``. Without a timeout, send none."""
    timeout = activity.info().heartbeat_timeout
    if timeout is None or activity.info().is_local:
        yield
        return

    async def beat() -> None:
        while True:
            activity.heartbeat(*([details()] if details else []))
            await asyncio.sleep(timeout.total_seconds() / 3)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()


@contextlib.asynccontextmanager
async def turn(details: Callable[[], Any] | None = None) -> AsyncIterator[Callable[[], bool]]:
    """Heartbeat during a turn; yields a function that returns False once the turn is over."""
    clock = asyncio.get_running_loop().time
    ends_at = clock() + TURN_SECONDS
    async with heartbeats(details):
        yield lambda: clock() < ends_at and not activity.is_worker_shutdown()


async def run_loop(step: Callable[[], Awaitable[float]], *, details: Callable[[], Any] | None = None) -> None:
    """Repeat ``step`` for a turn.

    ``step`` returns the seconds to wait before the next step. While Postgres is unreachable, the loop waits and
    repeats the step. So a step must keep its state in Postgres or in ``details``.
    """
    async with turn(details) as has_time:
        while has_time():
            try:
                seconds = await step()
            except UNREACHABLE:
                logger.warning("Postgres does not answer", extra={"activity": activity.info().activity_type})
                seconds = AWAY_SECONDS
            await _wait(seconds)


async def _wait(seconds: float) -> None:
    """Wait; return early when the worker shuts down."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await activity.wait_for_worker_shutdown()
