"""Calling activities: as steps, which have an effect, and as questions, which have none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from models.messages.execution import StepMessage, TemporalMessage
    from models.messages.public_text import PublicText, in_words
    from workflows.policies import STORE, StepPolicy

A = TypeVar("A", bound=StepMessage)
Q = TypeVar("Q", bound=TemporalMessage)
R = TypeVar("R")


async def perform(activity: Callable[[Any, A], Awaitable[R]], message: A, step: str, policy: StepPolicy) -> R:
    """Carry a step out: one that touches Postgres alone as a local activity, any other as an ordinary one."""
    if policy is STORE:
        return await workflow.execute_local_activity_method(
            activity,
            message,
            activity_id=step,
            start_to_close_timeout=policy.attempt_timeout,
            retry_policy=policy.retry,
            summary=PublicText(in_words(step)),
        )
    return await workflow.execute_activity_method(
        activity,
        message,
        activity_id=step,
        start_to_close_timeout=policy.attempt_timeout,
        heartbeat_timeout=policy.heartbeat_timeout,
        retry_policy=policy.retry,
        summary=PublicText(in_words(step)),
    )


async def ask(activity: Callable[[Any, Q], Awaitable[R]], question: Q, summary: str) -> R:
    """Look something up in Postgres. The answer isn't recorded as a step; a repeated one may be newer."""
    return await workflow.execute_local_activity_method(
        activity,
        question,
        start_to_close_timeout=STORE.attempt_timeout,
        retry_policy=STORE.retry,
        summary=PublicText(summary),
    )
