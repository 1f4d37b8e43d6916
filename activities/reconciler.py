"""Ends instances whose workflow did not record its end.

Lifecycle workflows record their ends. They can't if the run was terminated or timed out. They can't either if a
process died between the row and the start (ADR 0008). Temporal has the true status. :meth:`Reconciler.reconcile`
compares the rows with it three times a minute, in one long run.

A lost history (Temporal's database was lost, or a run deleted) is in no list of closed runs. So each comparison
also asks Temporal for some of the instances that a run has recorded, in turn. The end of a lost instance can't be
undone, and a worker may connect to the wrong cluster. So the reconciler ends lost instances only after it has
watched a Temporal for :data:`LOST_AFTER`.

All writes are idempotent: they end only rows without an end, and no run that a replay has replaced.
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

EVERY = timedelta(seconds=20)
OVERLAP = timedelta(minutes=2)
"""How far the next comparison reads back: visibility lags, and clocks differ."""
UNSTARTED_AFTER = timedelta(minutes=1)
"""Far longer than the API and the outbox take to start a stored instance, or to give up."""
LOST_AFTER = timedelta(hours=1)
"""The time to watch a Temporal before an instance that it doesn't know counts as lost."""
ASKED_FOR = 100
"""The most instances that one comparison asks for: five a second, so 50,000 take three hours."""
_CHUNK = 200
_UNRECORDED = {
    WorkflowExecutionStatus.FAILED: "Failed",
    WorkflowExecutionStatus.TIMED_OUT: "TimedOut",
    WorkflowExecutionStatus.TERMINATED: "Terminated",
}
"""The statuses of runs that may have closed without recording their end, and their names in visibility. Most
failed runs have recorded it."""


class Reconciler:
    def __init__(self, database: Database, cipher: Cipher, client: Client) -> None:
        self._database = database
        self._cipher = cipher
        self._client = client

    @activity.defn(name="reconciler.reconcile")
    async def reconcile(self, request: ReconcileRequest) -> ReconcileRequest:
        """Compare every :data:`EVERY` for a turn; returns the request with which the next turn continues.

        Heartbeats carry the progress of the last complete comparison. If the worker dies:

        1. in a comparison, or in the pause after it: the retry continues from the last heartbeat and repeats at
           most one comparison. Instances that it had ended have an end, so nothing happens to them.
        2. after the turn, before Temporal has its result: as 1.

        If Temporal loses its histories, it loses the progress too, and :data:`LOST_AFTER` begins anew.
        """
        progress = _heartbeated() or request

        async def step() -> float:
            nonlocal progress
            try:
                progress = await self.advance(progress)
            except RPCError as error:
                logger.warning("Temporal does not answer the reconciler", extra={"status": error.status.name})
            return EVERY.total_seconds()

        await run_loop(step, details=lambda: progress)
        return progress

    async def advance(self, progress: ReconcileRequest) -> ReconcileRequest:
        """Compare once; from the beginning if the progress is that of another namespace."""
        namespace_id = await self._namespace_id()
        if progress.namespace_id != namespace_id:
            progress = ReconcileRequest()
        result = await self.compare(progress)
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

    async def compare(self, asked: ReconcileRequest) -> ReconcileResult:
        """Compare the runs that have closed since, the rows that no run has recorded, and a page of the others."""
        began = datetime.now(UTC)
        ended = 0
        async for instance in self._suspects(asked.since):
            ended += await self._compare_one(instance)
        watching_since, after = asked.watching_since or began, ""
        if began - watching_since >= LOST_AFTER:
            async with self._database.connection() as connection:
                found, after = await instances.scan_running(connection, asked.after, ASKED_FOR)
            for instance in found:
                ended += await self._compare_one(instance, may_be_lost=True)
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
        """The ids of instances whose run has closed with a status of :data:`_UNRECORDED`."""
        statuses = ", ".join(f"'{name}'" for name in _UNRECORDED.values())
        query = f"ExecutionStatus IN ({statuses}) AND {WORKFLOW.name} IS NOT NULL"
        if since is not None:
            query += f" AND CloseTime >= '{since.isoformat()}'"
        async for execution in self._client.list_workflows(query, rpc_timeout=RPC_TIMEOUT):
            # A Temporal workflow id is `workflow_id/instance_id`.
            yield execution.id.rpartition("/")[2]

    async def _compare_one(self, instance: Unfinished, *, may_be_lost: bool = False) -> int:
        """End one row if Temporal has closed its latest run, or has none; returns the number of ended rows."""
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
    """The progress that an earlier attempt has heartbeated."""
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
