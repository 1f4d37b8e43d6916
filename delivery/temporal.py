"""Calls to Temporal about instances. Each may raise ``RPCError``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio.client import Client, WorkflowExecutionDescription, WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from models.instances import NewInstance
from models.temporal.execution import RecordedEvent
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


async def signal_event(client: Client, workflow_id: str, instance_id: str, event: RecordedEvent) -> bool:
    """Signal an event to an instance; False if Temporal has no open run of it."""
    try:
        await handle_of(client, workflow_id, instance_id).signal("event_recorded", event, rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True
