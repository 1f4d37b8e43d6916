"""Creates the system's namespace, loops and schedules in Temporal.

All functions are idempotent, and several processes may call them concurrently.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import (
    CountWorkflowExecutionsRequest,
    DescribeNamespaceRequest,
    RegisterNamespaceRequest,
)
from temporalio.client import (
    Client,
    Schedule,
    ScheduleAlreadyRunningError,
    ScheduleOverlapPolicy,
    ScheduleUpdate,
    WorkflowHandle,
)
from temporalio.common import Priority, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode

from runtime.temporal import RPC_TIMEOUT

logger = logging.getLogger("perennial.temporal")

PROVISION_SECONDS = 5.0
SYSTEM_RETENTION = timedelta(days=7)
"""Temporal keeps closed runs of the system's jobs for this time. Their results are in Postgres."""
_SERVED_ATTEMPTS = 100
_FIRST = Priority(priority_key=1)


def in_namespace(client: Client, namespace: str) -> Client:
    """A client for another namespace, on the same connection, with the same converter and interceptors."""
    config = client.config()
    config["namespace"] = namespace
    return Client(**config)


async def has_namespace(client: Client) -> bool:
    return await namespace_id(client) is not None


async def namespace_id(client: Client) -> str | None:
    """Temporal's id of the client's namespace; None if it is missing. One that is made again has another id."""
    try:
        found = await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=client.namespace), timeout=RPC_TIMEOUT
        )
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    return found.namespace_info.id


@asynccontextmanager
async def provisioned(client: Client, provision: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Provision the client's namespace, and meanwhile again whenever it is missing or another one.

    Temporal's database may be replaced while a worker runs. Its pollers continue, but Temporal has no jobs.
    """
    await provision()
    task = asyncio.create_task(_provision_again(client, provision, await namespace_id(client)))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _provision_again(client: Client, provision: Callable[[], Awaitable[None]], known: str | None) -> None:
    while True:
        await asyncio.sleep(PROVISION_SECONDS)
        try:
            if await namespace_id(client) != known:
                logger.warning("Temporal's namespace is another one", extra={"namespace": client.namespace})
                await provision()
                known = await namespace_id(client)
        except RPCError as error:
            logger.info("Temporal's namespace can't be looked up", extra={"status": error.status.name})
        except Exception:
            logger.exception("Temporal's namespace can't be provisioned")


async def ensure_namespace(client: Client) -> None:
    """Register the client's namespace if it is missing, and wait until Temporal serves it.

    An existing namespace keeps its retention. Raises RPCError if the namespace is missing and can't be registered,
    for example because a control plane manages namespaces.
    """
    retention = Duration()
    retention.FromTimedelta(SYSTEM_RETENTION)
    request = RegisterNamespaceRequest(
        namespace=client.namespace,
        description="Jobs of Perennial itself",
        workflow_execution_retention_period=retention,
    )
    try:
        # Don't describe it first: Temporal caches for a second or more that a namespace is missing.
        await client.workflow_service.register_namespace(request, timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.ALREADY_EXISTS and not await has_namespace(client):
            raise
    await _until_served(client)


async def _until_served(client: Client) -> None:
    """Wait until the frontend host has loaded the new namespace. Raises RPCError after about ten seconds."""
    request = CountWorkflowExecutionsRequest(namespace=client.namespace)
    for attempt in range(_SERVED_ATTEMPTS):
        try:
            await client.workflow_service.count_workflow_executions(request, timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND or attempt == _SERVED_ATTEMPTS - 1:
                raise
            await asyncio.sleep(0.1)
        else:
            return


async def ensure_running(
    client: Client,
    workflow: Callable[..., Any],
    *,
    workflow_id: str,
    task_queue: str,
    summary: str,
    args: Sequence[Any],
) -> None:
    """Start a workflow unless it runs.

    If it runs on another task queue, terminate it and start it on this one: the other may have no worker left. Its
    tasks have the highest priority, so a loop whose worker died doesn't wait for a backlog.
    """

    async def start(if_running: WorkflowIDConflictPolicy) -> WorkflowHandle[Any, Any]:
        return await client.start_workflow(
            workflow,
            args=args,
            id=workflow_id,
            task_queue=task_queue,
            id_conflict_policy=if_running,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=summary,
            priority=_FIRST,
            rpc_timeout=RPC_TIMEOUT,
        )

    handle = await start(WorkflowIDConflictPolicy.USE_EXISTING)
    if (await handle.describe(rpc_timeout=RPC_TIMEOUT)).task_queue != task_queue:
        await start(WorkflowIDConflictPolicy.TERMINATE_EXISTING)


async def ensure_schedule(client: Client, schedule_id: str, schedule: Schedule, *, run_now: bool) -> None:
    """Create or update a schedule. ``run_now`` also terminates a current run and starts another."""
    try:
        await client.create_schedule(schedule_id, schedule, trigger_immediately=run_now, rpc_timeout=RPC_TIMEOUT)
    except ScheduleAlreadyRunningError:
        handle = client.get_schedule_handle(schedule_id)
        await handle.update(lambda _: ScheduleUpdate(schedule=schedule), rpc_timeout=RPC_TIMEOUT)
        if run_now:
            await handle.trigger(overlap=ScheduleOverlapPolicy.TERMINATE_OTHER, rpc_timeout=RPC_TIMEOUT)
