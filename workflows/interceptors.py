"""The outcome of every lifecycle workflow is recorded here, once, whatever way it ends.

There from the first workflow on: an interceptor that issues commands can't be added later without breaking
the replay of running instances. It sees neither a terminate nor a run time-out; those are read from Temporal.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Coroutine
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

with workflow.unsafe.imports_passed_through():
    from models.temporal.execution import StepFailure
    from models.vocabulary import InstanceStatus
    from workflows.base import LifecycleWorkflow


class OutcomeInterceptor(Interceptor):
    """Gives every workflow the inbound interceptor that records its end."""

    def workflow_interceptor_class(
        self,
        input: WorkflowInterceptorClassInput,  # noqa: A002 - the SDK's name
    ) -> type[WorkflowInboundInterceptor]:
        """The class that wraps each workflow."""
        return _RecordOutcome


class _RecordOutcome(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:  # noqa: A002 - the SDK's
        instance = workflow.instance()
        if not isinstance(instance, LifecycleWorkflow):
            return await super().execute_workflow(input)
        try:
            outcome = await super().execute_workflow(input)
        except (asyncio.CancelledError, FailureError) as error:
            if is_cancelled_exception(error):
                await _uncancellable(instance.end(InstanceStatus.CANCELLED))
            else:
                await _uncancellable(instance.end(InstanceStatus.FAILED, failure_of(error)))
            raise
        await _uncancellable(instance.end(InstanceStatus.COMPLETED))
        return outcome


async def _uncancellable(ending: Coroutine[Any, Any, None]) -> None:
    """Let the end be written even if a cancellation arrives meanwhile: it has come too late."""
    task = asyncio.create_task(ending)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()


def failure_of(error: BaseException) -> StepFailure:
    """What is told of a failure: the innermost cause's type, text and stack, and the step it came from."""
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
    """The deepest recorded stack: the place where it went wrong, not where it was passed on."""
    stack = ""
    cause: BaseException | None = reason
    while cause is not None:
        if isinstance(cause, FailureError) and cause.failure is not None and cause.failure.stack_trace:
            stack = cause.failure.stack_trace
        elif not isinstance(cause, FailureError):  # a bug of the journey itself
            stack = "".join(traceback.format_tb(cause.__traceback__))
        cause = cause.__cause__
    return stack
