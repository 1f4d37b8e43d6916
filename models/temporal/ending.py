"""The status of an instance whose run Temporal has closed, and failures that none of our code raised."""

from __future__ import annotations

from collections.abc import Mapping

from temporalio.client import WorkflowExecutionStatus

from models.temporal.execution import StepFailure
from models.vocabulary import InstanceStatus

ENDED_AS: Mapping[WorkflowExecutionStatus, InstanceStatus] = {
    WorkflowExecutionStatus.COMPLETED: InstanceStatus.COMPLETED,
    WorkflowExecutionStatus.FAILED: InstanceStatus.FAILED,
    WorkflowExecutionStatus.TIMED_OUT: InstanceStatus.FAILED,
    WorkflowExecutionStatus.CANCELED: InstanceStatus.CANCELLED,
    WorkflowExecutionStatus.TERMINATED: InstanceStatus.CANCELLED,
}


def failure_without_stack(error_type: str, message: str, step: str | None) -> StepFailure:
    return StepFailure(error_type=error_type, error_message=message, failed_step=step, stack_trace="")


def never_started() -> StepFailure:
    """The process that stored the instance died before it called Temporal."""
    text = "The instance was stored, and its process ended before it called Temporal; execute it again."
    return failure_without_stack("NotStarted", text, None)


HISTORY_LOST = "history_lost"
"""An error type, and the reason of that end."""


def history_lost() -> StepFailure:
    """Temporal has no history of an instance that it ran."""
    text = (
        "Temporal has no history of this instance any more. Replay its dead letter: it starts anew, and completed "
        "steps do not run again."
    )
    return failure_without_stack(HISTORY_LOST, text, None)
