"""Calls to Temporal about instances. Each may raise ``RPCError``."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from models.instances import NewInstance
from models.temporal.execution import LostRun, RecordedEvent
from models.temporal.identity import temporal_workflow_id
from models.temporal.starting import start_input, start_options
from runtime.temporal import RPC_TIMEOUT


class RunUnknownError(Exception):
    """Temporal has no such run."""


def handle_of(
    client: Client, workflow_id: str, instance_id: str, run_id: str | None = None
) -> WorkflowHandle[Any, Any]:
    """The handle of a run; without ``run_id``, of the instance's latest run."""
    return client.get_workflow_handle(temporal_workflow_id(workflow_id, instance_id), run_id=run_id)


async def start_instance(client: Client, task_queue: str, new: NewInstance, description: str) -> str | None:
    """Start a stored instance. Returns the run's id; None if its run has already closed."""
    try:
        handle = await client.start_workflow(
            new.workflow_id,
            start_input(new),
            task_queue=task_queue,
            rpc_timeout=RPC_TIMEOUT,
            **start_options(new, description),
        )
    except WorkflowAlreadyStartedError:
        return None
    return handle.first_execution_run_id


async def restart_instance(
    client: Client,
    task_queue: str,
    new: NewInstance,
    description: str,
    *,
    lost_run: LostRun,
    replaced_runs: Collection[str],
) -> None:
    """Start an instance anew in place of a run without a history. A repeated call finds the new run.

    A replaced run that is still open is terminated: the worker had been connected to the wrong Temporal.
    """
    options = start_options(new, description)
    options["id_reuse_policy"] = WorkflowIDReusePolicy.ALLOW_DUPLICATE
    with contextlib.suppress(RunUnknownError):
        latest = await describe(client, new.workflow_id, new.instance_id)
        if latest.status is WorkflowExecutionStatus.RUNNING:
            if latest.run_id not in replaced_runs:
                return
            handle = handle_of(client, new.workflow_id, new.instance_id, latest.run_id)
            await handle.terminate("replaced by a replay", rpc_timeout=RPC_TIMEOUT)
    await client.start_workflow(
        new.workflow_id,
        start_input(new, lost_run),
        task_queue=task_queue,
        rpc_timeout=RPC_TIMEOUT,
        **options,
    )


async def describe(
    client: Client,
    workflow_id: str,
    instance_id: str,
    run_id: str | None = None,
    *,
    timeout: timedelta = RPC_TIMEOUT,  # noqa: ASYNC109 - the RPC's own
) -> WorkflowExecutionDescription:
    """Raises :class:`RunUnknownError`."""
    try:
        return await handle_of(client, workflow_id, instance_id, run_id).describe(rpc_timeout=timeout)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise RunUnknownError from error
        raise


_FAILED = "category=WorkflowTaskFailed"
FAILED_TASKS = f"TemporalReportedProblems = '{_FAILED}'"
"""Part of a visibility query: open runs whose workflow tasks fail one after the other."""
POLLER_SILENT = timedelta(seconds=90)
"""A poll of a task queue takes at most a minute."""
FAILED_ATTEMPTS = 3
"""A workflow task with this attempt fails again and again. Temporal repeats a failed task at once, and then after
growing pauses."""


def tasks_fail(described: WorkflowExecutionDescription) -> bool:
    """Whether the workflow tasks of an open run fail one after the other."""
    if described.status is not WorkflowExecutionStatus.RUNNING:
        return False
    problems = described.raw_info.search_attributes.indexed_fields.get("TemporalReportedProblems")
    if problems is not None:
        return _FAILED in problems.data.decode()
    return bool(described.raw_description.pending_workflow_task.attempt >= FAILED_ATTEMPTS)


async def last_poll(client: Client, task_queue: str) -> datetime | None:
    """When a worker last polled a queue of workflow tasks; None if Temporal has forgotten, after five minutes."""
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    found = await client.workflow_service.describe_task_queue(request, timeout=RPC_TIMEOUT)
    return max((each.last_access_time.ToDatetime(UTC) for each in found.pollers), default=None)


async def signal_event(client: Client, workflow_id: str, instance_id: str, event: RecordedEvent) -> bool:
    """Signal an event to an instance; False if Temporal has no open run of it."""
    try:
        await handle_of(client, workflow_id, instance_id).signal("event_recorded", event, rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True
