"""Carrying an instance on from its failed step: a Temporal reset to before that step was scheduled.

The new run replays history up to there and does the rest again. What of that had been done (parallel siblings,
steps of the same workflow task) is read back from the stored results by (instance, step), so it has no second
effect.

Where the reset point lies:

- A step that is an activity: at the completion of the workflow task that scheduled it.
- A local activity leaves no event when it is scheduled, only a marker when it has ended, and that maybe workflow
  tasks later, since a long one is kept alive by empty ones. The step shows itself as a search attribute in the
  very task that begins it; that task is the point. The marker is looked at as well, for histories without it.
- A bug in the journey: at the workflow task in which the instance first showed itself as failed. The code before
  ran well and is replayed, the code that raised runs anew.

By the line at which the process dies:

1. before the reset: the letter of the outbox is still there, and is delivered again.
2. after it: delivered again, and another run than the one that has failed is running, so there is no second
   reset; the events are told again, which changes nothing. (Temporal takes a second reset under the same
   request id, tried.) If the instance has moved on (its letter isn't `replaying`), nothing is done.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.enums.v1 import EventType, ResetReapplyType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from models.temporal.identity import STATUS, STEP, temporal_workflow_id
from models.vocabulary import InstanceStatus
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.temporal import RPC_TIMEOUT
from store.instances import replays
from store.instances.dead_letters import StoredDeadLetter

_LOCAL_ACTIVITY = "core_local_activity"
_IMPOSSIBLE = frozenset(
    {RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.FAILED_PRECONDITION}
)
"""What Temporal says of a history that is gone, or that can't be reset to that point."""


class Replays:
    """Resets failed instances in Temporal."""

    def __init__(self, database: Database, cipher: Cipher, client: Client) -> None:
        self._database = database
        self._cipher = cipher
        self._client = client

    async def carry_on(self, dead_letter_id: str) -> None:
        """Carry out a replay that has been requested; where that can't be, the letter is open again.

        Raises RPCError where Temporal doesn't answer.
        """
        async with self._database.connection() as connection:
            letter = await replays.under_way(connection, self._cipher, dead_letter_id)
        if letter is None:
            return
        try:
            await self._reset(letter)
        except RPCError as error:
            if error.status not in _IMPOSSIBLE:
                raise
            async with self._database.transaction() as connection:
                await replays.give_back(connection, self._cipher, letter)
            return
        async with self._database.transaction() as connection:
            await replays.tell_missed_events(connection, self._cipher, letter)

    async def _reset(self, letter: StoredDeadLetter) -> None:
        workflow_id = temporal_workflow_id(letter.workflow_id, letter.instance_id)
        latest = await self._client.get_workflow_handle(workflow_id).describe(rpc_timeout=RPC_TIMEOUT)
        if latest.run_id != letter.run_id and latest.status is WorkflowExecutionStatus.RUNNING:
            return
        failed = self._client.get_workflow_handle(workflow_id, run_id=letter.run_id)
        events = [event async for event in failed.fetch_history_events(rpc_timeout=RPC_TIMEOUT)]
        await self._client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=self._client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=letter.run_id),
                reason="replay of a dead letter",
                workflow_task_finish_event_id=reset_point(events, letter.failed_step),
                request_id=f"{letter.dead_letter_id}-{letter.attempts}",
                reset_reapply_type=ResetReapplyType.RESET_REAPPLY_TYPE_ALL_ELIGIBLE,
            ),
            timeout=RPC_TIMEOUT,
        )


def reset_point(events: Iterable[HistoryEvent], failed_step: str | None) -> int:
    """The id of the completed workflow task to go back to, so that what it decided is decided anew.

    0, which Temporal refuses, where a history doesn't have it.
    """
    point = 0
    for event in events:
        if failed_step is not None and failed_step in _begun_steps(event):
            return _decided_by(event)
        if failed_step is None and _shown(event, STATUS.name) == InstanceStatus.FAILED.value:
            point = _decided_by(event)
    return point


def _decided_by(event: HistoryEvent) -> int:
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    return int(attributes.workflow_task_completed_event_id)


def _begun_steps(event: HistoryEvent) -> set[str]:
    """The steps that an event tells of."""
    if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
        return {event.activity_task_scheduled_event_attributes.activity_id}
    if event.event_type == EventType.EVENT_TYPE_MARKER_RECORDED:
        marker = event.marker_recorded_event_attributes
        if marker.marker_name == _LOCAL_ACTIVITY:
            return {str(_value(payload).get("activity_id")) for payload in marker.details["data"].payloads}
    shown = _shown(event, STEP.name)
    return {shown} if shown else set()


def _shown(event: HistoryEvent, attribute: str) -> str | None:
    """What an event sets a search attribute to; these are never encrypted."""
    if event.event_type != EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES:
        return None
    fields = event.upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields
    return str(json.loads(fields[attribute].data)) if attribute in fields else None


def _value(payload: Payload) -> dict[str, object]:
    value = json.loads(payload.data)
    return value if isinstance(value, dict) else {}
