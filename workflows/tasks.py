"""Cancels the asyncio tasks of a journey, deterministically."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Coroutine
from typing import Any

from temporalio import workflow


async def cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks in the order of the collection, also those added meanwhile, and wait until all have ended."""
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await workflow.wait(running)


async def uncancellable(work: Coroutine[Any, Any, None]) -> None:
    """Finish the work, even if a cancellation arrives meanwhile."""
    task = asyncio.create_task(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()


def raise_if_cancelled() -> None:
    """Raise the cancellation that a task deferred while an attempt ran.

    Not after Temporal's own cancellation: a `finally` block may still do steps.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling() and workflow.cancellation_reason() is None:
        raise asyncio.CancelledError


def first_failure(error: BaseException) -> BaseException:
    """The first error of an exception group, which names the failed step; any other error unchanged."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
