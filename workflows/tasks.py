"""The asyncio tasks of a journey: how they are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Coroutine
from typing import Any

from temporalio import workflow


async def cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and those that they add meanwhile, in a fixed order, and wait for their end."""
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await workflow.wait(running)


async def uncancellable(work: Coroutine[Any, Any, None]) -> None:
    """Do work to its end, also if a cancellation arrives meanwhile."""
    task = asyncio.create_task(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()


def raise_if_cancelled() -> None:
    """Raise the cancellation of a task that let an attempt end. After Temporal's, a `finally` may do steps."""
    task = asyncio.current_task()
    if task is not None and task.cancelling() and workflow.cancellation_reason() is None:
        raise asyncio.CancelledError


def first_failure(error: BaseException) -> BaseException:
    """The first failure of a task group, which names the failed step; any other error as it is."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
