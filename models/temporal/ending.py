"""What an instance is when Temporal says that its run has closed."""

from __future__ import annotations

from collections.abc import Mapping

from temporalio.client import WorkflowExecutionStatus

from models.vocabulary import InstanceStatus

ENDED_AS: Mapping[WorkflowExecutionStatus, InstanceStatus] = {
    WorkflowExecutionStatus.COMPLETED: InstanceStatus.COMPLETED,
    WorkflowExecutionStatus.FAILED: InstanceStatus.FAILED,
    WorkflowExecutionStatus.TIMED_OUT: InstanceStatus.FAILED,
    WorkflowExecutionStatus.CANCELED: InstanceStatus.CANCELLED,
    WorkflowExecutionStatus.TERMINATED: InstanceStatus.CANCELLED,
}
"""What an instance is whose run has closed; one that was continued as new goes on."""
