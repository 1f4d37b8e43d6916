"""Calling activities: as steps, which have an effect, and as questions, which have none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError  # noqa: A004 - Temporal's

with workflow.unsafe.imports_passed_through():
    from activities.instances import Instances
    from models.messages.execution import InstanceQuestion, LifecycleOutcome, StepMessage, TemporalMessage
    from models.messages.public_text import PublicText, in_words
    from models.vocabulary import InstanceStatus
    from workflows.memory import step_failure
    from workflows.policies import STORE, StepPolicy

A = TypeVar("A", bound=StepMessage)
Q = TypeVar("Q", bound=TemporalMessage)
R = TypeVar("R")


async def perform(activity: Callable[[Any, A], Awaitable[R]], message: A, step: str, policy: StepPolicy) -> R:
    """Carry a step out: one that touches Postgres alone as a local activity, any other as an ordinary one."""
    if policy is STORE:
        try:
            return await workflow.execute_local_activity_method(
                activity,
                message,
                activity_id=step,
                start_to_close_timeout=policy.attempt_timeout,
                retry_policy=policy.retry,
                summary=PublicText(in_words(step)),
            )
        except (ApplicationError, TimeoutError) as error:  # the SDK tells of these without the step
            raise step_failure(step, error) from error
    return await workflow.execute_activity_method(
        activity,
        message,
        activity_id=step,
        start_to_close_timeout=policy.attempt_timeout,
        heartbeat_timeout=policy.heartbeat_timeout,
        retry_policy=policy.retry,
        summary=PublicText(in_words(step)),
    )


async def stored_end(error: BaseException, instance_id: str) -> LifecycleOutcome | None:
    """How an instance has been completed before, where that is why a step was refused; None for any other failure.

    Its end is recorded in the workflow task that completes it. If Temporal refuses that task, since a signal came
    meanwhile, it is done again with the signal, and may take another course; what was recorded stays.
    """
    cause = error.cause if isinstance(error, ActivityError) else None
    if not isinstance(cause, ApplicationError) or cause.type != "InstanceUnknown":
        return None
    question = InstanceQuestion(instance_id=instance_id)
    outcome = (await ask(Instances.end, question, "Look how the instance has ended")).outcome
    return outcome if outcome is not None and outcome.status is InstanceStatus.COMPLETED else None


async def ask(activity: Callable[[Any, Q], Awaitable[R]], question: Q, summary: str) -> R:
    """Look something up in Postgres. The answer isn't recorded as a step; a repeated one may be newer."""
    return await workflow.execute_local_activity_method(
        activity,
        question,
        start_to_close_timeout=STORE.attempt_timeout,
        retry_policy=STORE.retry,
        summary=PublicText(summary),
    )
