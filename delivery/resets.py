"""Resets a failed instance in Temporal to the point before its failed step.

The new run replays history up to the reset point and runs the rest anew. Completed steps after that point
(parallel branches, steps of the same workflow task) have no second effect. The run reads their results from
Postgres.

The reset point is a completed workflow task:

- For an activity: the task that scheduled it.
- For a local activity: the task that first set the step's search attribute. A local activity adds no event when it
  starts. It adds a marker when it ends, possibly several workflow tasks later.
- For an error in the journey's own code: the task that set the status to failed. The code before it is replayed,
  and the code that raised runs anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, ResetReapplyType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from delivery.temporal import RunUnknownError, describe, handle_of
from models.temporal.identity import STATUS, STEP, temporal_workflow_id
from models.vocabulary import InstanceStatus
from runtime.temporal import RPC_TIMEOUT

_IMPOSSIBLE = frozenset(
    {RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.FAILED_PRECONDITION}
)


class ResetImpossibleError(Exception):
    """The failed run's history was deleted or has no reset point."""


async def reset_instance(
    client: Client,
    workflow_id: str,
    instance_id: str,
    *,
    failed_run: str,
    failed_step: str | None,
    request_id: str,
) -> None:
    """Reset a failed run, unless another run is open. Raises :class:`ResetImpossibleError`.

    Temporal accepts a second reset with the same request id, so only the check for an open run prevents it.
    """
    try:
        latest = await describe(client, workflow_id, instance_id)
        if latest.run_id != failed_run and latest.status is WorkflowExecutionStatus.RUNNING:
            return
        handle = handle_of(client, workflow_id, instance_id, failed_run)
        history = [event async for event in handle.fetch_history_events(rpc_timeout=RPC_TIMEOUT)]
        await client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=client.namespace,
                workflow_execution=WorkflowExecution(
                    workflow_id=temporal_workflow_id(workflow_id, instance_id), run_id=failed_run
                ),
                reason="replay of a dead letter",
                workflow_task_finish_event_id=reset_point(history, failed_step),
                request_id=request_id,
                reset_reapply_type=ResetReapplyType.RESET_REAPPLY_TYPE_ALL_ELIGIBLE,
            ),
            timeout=RPC_TIMEOUT,
        )
    except RunUnknownError as error:
        raise ResetImpossibleError from error
    except RPCError as error:
        if error.status in _IMPOSSIBLE:
            raise ResetImpossibleError from error
        raise


def reset_point(history: Iterable[HistoryEvent], failed_step: str | None) -> int:
    """The event id of the workflow task to reset to; 0, which Temporal rejects, if there is none."""
    point = 0
    for event in history:
        if failed_step is not None and failed_step in _begun_steps(event):
            return _task_of(event)
        if failed_step is None and _search_attribute(event, STATUS.name) == InstanceStatus.FAILED.value:
            point = _task_of(event)  # the last one: a replayed history contains earlier failures
    return point


def _task_of(event: HistoryEvent) -> int:
    """The event id of the completed workflow task that caused an event."""
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    return int(attributes.workflow_task_completed_event_id)


def _begun_steps(event: HistoryEvent) -> set[str]:
    if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
        return {event.activity_task_scheduled_event_attributes.activity_id}
    begun = local_activity_ids(event)
    step = _search_attribute(event, STEP.name)
    return begun | {step} if step else begun


def local_activity_ids(event: HistoryEvent) -> set[str]:
    """The ids of the local activities that a marker records.

    The marker (``core_local_activity``, JSON under ``data``) is internal to Temporal's SDK core and may change. So
    ``tests/dead_letters/test_reset_points.py`` reads a history that the installed SDK has recorded. Only steps
    whose search attribute was not set in time depend on the marker.
    """
    if event.event_type != EventType.EVENT_TYPE_MARKER_RECORDED:
        return set()
    marker = event.marker_recorded_event_attributes
    if marker.marker_name != "core_local_activity":
        return set()
    details = (json.loads(payload.data) for payload in marker.details["data"].payloads)
    return {str(each["activity_id"]) for each in details if isinstance(each, dict) and "activity_id" in each}


def _search_attribute(event: HistoryEvent, name: str) -> str | None:
    """The value that an event sets for a search attribute; these values are never encrypted."""
    if event.event_type != EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES:
        return None
    fields = event.upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields
    return str(json.loads(fields[name].data)) if name in fields else None
