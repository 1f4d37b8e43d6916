"""Starts an instance's activities, waits for them, and interprets their failures."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.instances import EXIT_DUE, INSTANCE_UNKNOWN, Instances
    from models.temporal.execution import (
        InstanceQuestion,
        LifecycleOutcome,
        StepFailure,
        StepInput,
        StepQuestion,
        TemporalPayload,
    )
    from models.temporal.public_text import PublicText, in_words
    from models.vocabulary import InstanceStatus
    from workflows.policies import STORE, StepPolicy

A = TypeVar("A", bound=StepInput)
Q = TypeVar("Q", bound=TemporalPayload)
R = TypeVar("R")


def start_step(
    activity: Callable[[Any, A], Awaitable[R]], message: A, step: str, policy: StepPolicy
) -> workflow.ActivityHandle[R]:
    """Start a step's activity: a local one if the step only uses Postgres."""
    if policy.local:
        return start_local(activity, message, in_words(step), step, policy)
    return workflow.start_activity_method(
        activity,
        message,
        activity_id=step,
        start_to_close_timeout=policy.attempt_timeout,
        heartbeat_timeout=policy.heartbeat_timeout,
        retry_policy=policy.retry,
        summary=PublicText(in_words(step)),
    )


def start_local(
    activity: Callable[[Any, Q], Awaitable[R]],
    message: Q,
    summary: str,
    activity_id: str | None = None,
    policy: StepPolicy = STORE,
) -> workflow.ActivityHandle[R]:
    """Start a local activity. The worker retries it until Postgres answers."""
    return workflow.start_local_activity_method(
        activity,
        message,
        activity_id=activity_id,
        start_to_close_timeout=policy.attempt_timeout,
        retry_policy=policy.retry,
        summary=PublicText(summary),
    )


async def finish(
    handle: workflow.ActivityHandle[R], give_up: Callable[[], Coroutine[Any, Any, None]] | None = None
) -> R:
    """Wait for an activity. Only Temporal's cancellation of the instance cancels it at once.

    Another cancellation of the task, such as an exit, lets the current attempt end, because it may have had its
    effect already. Meanwhile ``give_up`` may cancel the activity; without it the activity continues. Then the
    function returns the result. The task's next step or wait raises the cancellation.
    """
    giving_up: asyncio.Task[None] | None = None
    while not handle.done():
        try:
            await workflow.wait([handle])  # `await handle` would cancel the activity
        except asyncio.CancelledError:
            if workflow.cancellation_reason() is not None:
                handle.cancel()
                await asyncio.gather(handle, return_exceptions=True)
                raise
            if giving_up is None and give_up is not None:
                giving_up = asyncio.create_task(give_up())
    try:
        return await handle
    except FailureError as error:
        if is_cancelled_exception(error):
            raise asyncio.CancelledError from error  # an author's `except Exception` must not catch it
        raise


async def until_between_attempts(
    handle: workflow.ActivityHandle[Any], instance_id: str, step: str, attempt_timeout: timedelta
) -> None:
    """Return at once if the step's next attempt is some time away, else after the time-out of an attempt."""
    question = StepQuestion(instance_id=instance_id, step=step)
    if workflow.patched("exits-end-pauses"):
        answer = await start_local(Instances.backs_off, question, f"Ask about {in_words(step)}")
        if answer.lasts:
            return
    with contextlib.suppress(TimeoutError):
        await workflow.wait_condition(
            handle.done, timeout=attempt_timeout, timeout_summary=PublicText("Wait for the attempt under way")
        )


def step_failure(step: str, cause: BaseException) -> ActivityError:
    """A local activity's failure as the ActivityError that Temporal raises for other activities."""
    error = ActivityError(
        "Activity task failed",
        scheduled_event_id=0,
        started_event_id=0,
        identity="",
        activity_type="",
        activity_id=step,
        retry_state=None,
    )
    error.__cause__ = cause
    return error


def is_exit_due(error: FailureError) -> bool:
    """Whether a step's activity found an exit in the log, and so didn't begin an attempt."""
    cause = error.cause if isinstance(error, ActivityError) else error
    return isinstance(cause, ApplicationError) and cause.type == EXIT_DUE


def failure_of(error: BaseException) -> StepFailure:
    """The type, text and stack of an error's cause, and the step that failed."""
    step = error.activity_id if isinstance(error, ActivityError) else None
    reason = error.cause if isinstance(error, ActivityError) and error.cause else error
    kind = reason.type if isinstance(reason, ApplicationError) and reason.type else type(reason).__name__
    return StepFailure(
        error_type=kind,
        error_message=str(getattr(reason, "message", reason)),
        failed_step=step,
        stack_trace=_stack_of(reason),
    )


def _stack_of(reason: BaseException) -> str:
    """The stack of the innermost cause, which shows the line that raised the error."""
    stack = ""
    cause: BaseException | None = reason
    while cause is not None:
        if isinstance(cause, FailureError) and cause.failure is not None and cause.failure.stack_trace:
            stack = cause.failure.stack_trace
        elif not isinstance(cause, FailureError):  # a bug of the journey itself
            stack = "".join(traceback.format_tb(cause.__traceback__))
        cause = cause.__cause__
    return stack


async def stored_end(error: BaseException, instance_id: str) -> LifecycleOutcome | None:
    """The outcome of an instance that had already completed; None if the step failed for another reason.

    The workflow task that completes an instance records the end in Postgres. If a signal arrives meanwhile,
    Temporal rejects that task and runs it again with the signal. It may then take another branch, but the recorded
    end stays.
    """
    cause = error.cause if isinstance(error, ActivityError) else None
    if not isinstance(cause, ApplicationError) or cause.type != INSTANCE_UNKNOWN:
        return None
    question = InstanceQuestion(instance_id=instance_id)
    outcome = (await start_local(Instances.end, question, "Read how the instance ended")).outcome
    return outcome if outcome is not None and outcome.status is InstanceStatus.COMPLETED else None
