"""Ends instances whose workflow did not record its end.

A lifecycle workflow normally records its end in the instance's row. It can't if Temporal terminated the run or
timed it out. Nor can it if a process inserted the row and died before it started the workflow (ADR 0008). Every
:data:`COMPARE_INTERVAL`, :meth:`Reconciler.reconcile` reads the true status from Temporal and ends such instances.

A history is lost if someone deleted the run or Temporal lost its database. Temporal's list of closed runs lacks
lost histories. So, after :data:`LOST_AFTER`, each comparison also looks up some instances with a recorded run.

The reconciler ends an instance with a lost history only after :data:`LOST_AFTER` in the same Temporal namespace.
Such an instance can't be replayed. A run that is unknown for a short time may mean a wrong or restarting cluster.

All writes are idempotent. They end only rows without an end, and ignore a run if the instance has a newer one.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta

from temporalio import activity
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from activities.loops import run_loop
from delivery.temporal import RunUnknownError, describe
from models.temporal.ending import ENDED_AS, failure_without_stack, history_lost, never_started
from models.temporal.execution import StepFailure
from models.temporal.identity import WORKFLOW
from models.temporal.system import ReconcileRequest, ReconcileResult
from models.vocabulary import InstanceStatus
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.temporal import RPC_TIMEOUT
from store.instances import instances, terminal
from store.instances.instances import Unfinished
from store.instances.states import HISTORY_LOST, NOT_STARTED
from store.instances.terminal import Ending

logger = logging.getLogger("perennial.reconciler")

COMPARE_INTERVAL = timedelta(seconds=20)
OVERLAP = timedelta(minutes=2)
"""Each list of closed runs begins this long before the previous comparison, because visibility lags and clocks
differ."""
UNSTARTED_AFTER = timedelta(minutes=1)
"""The age at which an instance without a recorded run is looked up. A start normally takes far less time."""
LOST_AFTER = timedelta(hours=1)
"""How long comparisons run in one namespace before they end started instances that Temporal doesn't know."""
MOST_LOOKUPS = 100
"""The most instances that one comparison looks up to find lost histories. 50,000 instances take three hours."""
_CHUNK = 200
_UNRECORDED = {
    WorkflowExecutionStatus.FAILED: "Failed",
    WorkflowExecutionStatus.TIMED_OUT: "TimedOut",
    WorkflowExecutionStatus.TERMINATED: "Terminated",
}
"""The statuses of closed runs that may not have recorded their end, each with its name in visibility queries. Most
failed runs have recorded their end."""


class Reconciler:
    def __init__(self, database: Database, cipher: Cipher, client: Client) -> None:
        self._database = database
        self._cipher = cipher
        self._client = client

    @activity.defn(name="reconciler.reconcile")
    async def reconcile(self, request: ReconcileRequest) -> ReconcileRequest:
        """Compare every :data:`COMPARE_INTERVAL`, in :func:`run_loop`. Returns the request for the next activity.

        Each heartbeat contains the progress after the last complete comparison. If the worker dies:

        1. during a comparison, or in the pause after a comparison: the retry continues from the last heartbeat. It
           repeats at most one comparison, which doesn't change instances that have an end.
        2. after the last comparison, before Temporal has the activity's result: as 1.

        If Temporal loses all histories, it also loses the progress. Then :data:`LOST_AFTER` begins again.
        """
        progress = _heartbeated() or request

        async def step() -> float:
            nonlocal progress
            try:
                progress = await self.advance(progress)
            except RPCError as error:
                logger.warning("Temporal does not answer the reconciler", extra={"status": error.status.name})
            return COMPARE_INTERVAL.total_seconds()

        await run_loop(step, details=lambda: progress)
        return progress

    async def advance(self, progress: ReconcileRequest) -> ReconcileRequest:
        """Compare once. Ignore ``progress`` if it belongs to another namespace."""
        namespace_id = await self._namespace_id()
        if progress.namespace_id != namespace_id:
            progress = ReconcileRequest()
        result = await self.end_unrecorded(progress)
        return ReconcileRequest(
            namespace_id=namespace_id,
            since=result.until,
            watching_since=result.watching_since,
            after=result.after,
        )

    async def _namespace_id(self) -> str:
        described = await self._client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=self._client.namespace), timeout=RPC_TIMEOUT
        )
        return described.namespace_info.id

    async def end_unrecorded(self, progress: ReconcileRequest) -> ReconcileResult:
        """End instances that have no recorded end, if Temporal has closed their run or doesn't know it.

        Looks up the instances whose run closed since the last comparison, and those without a recorded run. After
        :data:`LOST_AFTER`, also looks up the next :data:`MOST_LOOKUPS` instances with a recorded run.
        """
        began = datetime.now(UTC)
        ended = 0
        async for instance in self._suspects(progress.since):
            ended += await self._end_if_closed(instance)
        watching_since, after = progress.watching_since or began, ""
        if began - watching_since >= LOST_AFTER:
            async with self._database.connection() as connection:
                found, after = await instances.scan_running(connection, progress.after, MOST_LOOKUPS)
            for instance in found:
                ended += await self._end_if_closed(instance, may_be_lost=True)
        return ReconcileResult(until=began - OVERLAP, ended=ended, watching_since=watching_since, after=after)

    async def _suspects(self, since: datetime | None) -> AsyncIterator[Unfinished]:
        closed = [instance_id async for instance_id in self._closed(since)]
        for chunk in _chunks(closed):
            async with self._database.connection() as connection:
                found = await instances.unfinished(connection, chunk)
            for each in found:
                yield each
        async with self._database.connection() as connection:
            found = await instances.unstarted(connection, UNSTARTED_AFTER)
        for each in found:
            yield each

    async def _closed(self, since: datetime | None) -> AsyncIterator[str]:
        """The ids of instances whose run closed at ``since`` or later with a status in :data:`_UNRECORDED`."""
        statuses = ", ".join(f"'{name}'" for name in _UNRECORDED.values())
        query = f"ExecutionStatus IN ({statuses}) AND {WORKFLOW.name} IS NOT NULL"
        if since is not None:
            query += f" AND CloseTime >= '{since.isoformat()}'"
        async for execution in self._client.list_workflows(query, rpc_timeout=RPC_TIMEOUT):
            # A Temporal workflow id is `workflow_id/instance_id`.
            yield execution.id.rpartition("/")[2]

    async def _end_if_closed(self, instance: Unfinished, *, may_be_lost: bool = False) -> int:
        """End an instance if its latest run closed without recording its end, or never existed. Returns 1 if so.

        With ``may_be_lost``, also end an instance with a recorded run that Temporal doesn't know.
        """
        try:
            described = await describe(self._client, instance.workflow_id, instance.instance_id)
        except RunUnknownError:
            ending = _ending_of_unknown(instance, may_be_lost=may_be_lost)
        else:
            ending = await self._ending(instance, described)
        if ending is None:
            return 0
        async with self._database.transaction() as connection:
            return int(await terminal.end_unrecorded(connection, self._cipher, instance, ending))

    async def _ending(self, instance: Unfinished, described: WorkflowExecutionDescription) -> Ending | None:
        if described.status not in _UNRECORDED or described.run_id is None:
            return None
        status = ENDED_AS[described.status]
        failure = None
        if described.status is WorkflowExecutionStatus.TIMED_OUT:
            failure = failure_without_stack(
                "TimedOut", "Temporal ended the run: its time was over.", instance.current_step
            )
        elif status is InstanceStatus.FAILED:
            failure = await self._failure_of(described, instance.current_step)
        reason = "terminated" if described.status is WorkflowExecutionStatus.TERMINATED else None
        return Ending(status, described.run_id, failure, reason, described.close_time)

    async def _failure_of(self, described: WorkflowExecutionDescription, step: str | None) -> StepFailure:
        handle = self._client.get_workflow_handle(described.id, run_id=described.run_id)
        try:
            await handle.result(follow_runs=False, rpc_timeout=RPC_TIMEOUT)
        except WorkflowFailureError as error:
            cause = error.cause
            kind = cause.type if isinstance(cause, ApplicationError) and cause.type else type(cause).__name__
            return failure_without_stack(kind, str(cause), step)
        return failure_without_stack("Failed", "The run failed without a reason.", step)


def _heartbeated() -> ReconcileRequest | None:
    """The progress in the last heartbeat of an earlier attempt; None without a heartbeat."""
    details = activity.info().heartbeat_details
    return ReconcileRequest.model_validate(details[0]) if details else None


def _ending_of_unknown(instance: Unfinished, *, may_be_lost: bool) -> Ending | None:
    if instance.run_id is None:
        return Ending(InstanceStatus.FAILED, None, never_started(), NOT_STARTED)
    if not may_be_lost:
        return None
    failure = history_lost(instance.current_step)
    return Ending(InstanceStatus.FAILED, instance.run_id, failure, HISTORY_LOST, replayable=False)


def _chunks(items: Iterable[str]) -> Iterable[list[str]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        yield chunk
