"""Ends instances whose workflow did not record its end.

A lifecycle workflow normally records its end in the instance's row. It can't if Temporal terminated the run or
timed it out. Nor can it if a process inserted the row and died before it started the workflow (ADR 0008). Every
:data:`COMPARE_INTERVAL`, :meth:`Reconciler.reconcile` reads the true status from Temporal and ends such instances.

A history is lost if someone deleted the run, or if Temporal lost its database or was restored to an older state.
Temporal's list of closed runs lacks lost histories. So each comparison also looks up some instances with a
recorded run. It looks up all of them when the progress is new or old: then Temporal or this loop was away.

An instance whose history Temporal lost fails, with a dead letter. A replay starts it again (ADR 0045). A worker
that connects to the wrong Temporal has :data:`LOST_AFTER` before the first such end.

All writes are idempotent. They end only rows without an end, and ignore a run if the instance has a newer one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

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
from activities.problems import Problems
from delivery.temporal import RunUnknownError, describe, tasks_fail
from models.temporal.ending import ENDED_AS, HISTORY_LOST, failure_without_stack, history_lost, never_started
from models.temporal.execution import StepFailure
from models.temporal.identity import WORKFLOW
from models.temporal.system import ReconcileRequest, ReconcileResult
from models.vocabulary import InstanceStatus, ProblemKind
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.temporal import RPC_TIMEOUT
from store.instances import instances, terminal
from store.instances.instances import SCANNED_ROWS, Unfinished
from store.instances.states import NOT_STARTED
from store.instances.terminal import Ending

logger = logging.getLogger("perennial.reconciler")

T = TypeVar("T")

COMPARE_INTERVAL = timedelta(seconds=20)
OVERLAP = timedelta(minutes=2)
"""Each list of closed runs begins this long before the previous comparison, because visibility lags and clocks
differ."""
UNSTARTED_AFTER = timedelta(minutes=1)
"""The age at which an instance without a recorded run is looked up. A start normally takes far less time."""
LOST_AFTER = timedelta(seconds=15)
"""How long comparisons run in one namespace before they end started instances that Temporal doesn't know: the
second one does."""
AWAY_AFTER = timedelta(minutes=5)
"""A comparison that comes so long after the one before looks up all instances."""
LOOKUPS_AT_ONCE = 20
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
    def __init__(self, database: Database, cipher: Cipher, client: Client, task_queue: str | None = None) -> None:
        """``task_queue``: see :class:`activities.problems.Problems`."""
        self._database = database
        self._cipher = cipher
        self._client = client
        self.problems = Problems(database, client, task_queue)

    @activity.defn(name="reconciler.reconcile")
    async def reconcile(self, request: ReconcileRequest) -> ReconcileRequest:
        """Compare every :data:`COMPARE_INTERVAL`, in :func:`run_loop`. Returns the request for the next activity.

        Each heartbeat contains the progress after the last complete comparison. If the worker dies:

        1. during a comparison, or in the pause after a comparison: the retry continues from the last heartbeat. It
           repeats at most one comparison, which doesn't change instances that have an end.
        2. after the last comparison, before Temporal has the activity's result: as 1.

        If Temporal loses all histories, it also loses the progress. Then :data:`LOST_AFTER` begins again, and the
        comparison after it looks up all instances.
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
        namespace = await self._client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=self._client.namespace), timeout=RPC_TIMEOUT
        )
        namespace_id = namespace.namespace_info.id
        if progress.namespace_id != namespace_id:
            progress = ReconcileRequest()
        result = await self.end_unrecorded(progress)
        await self.problems.compare(namespace)
        return ReconcileRequest(
            namespace_id=namespace_id,
            since=result.until,
            watching_since=result.watching_since,
            after=result.after,
            swept=result.swept,
        )

    async def end_unrecorded(self, progress: ReconcileRequest) -> ReconcileResult:
        """End instances that have no recorded end, if Temporal has closed their run or doesn't know it.

        Looks up the instances whose run closed since the last comparison, and those without a recorded run. After
        :data:`LOST_AFTER`, also looks up the next :data:`MOST_LOOKUPS` instances with a recorded run, or all.
        """
        began = datetime.now(UTC)
        ended = 0
        async for instance in self._suspects(progress.since):
            ended += await self._end_if_closed(instance)
        watching_since, after = progress.watching_since or began, ""
        away = progress.since is None or began - OVERLAP - progress.since >= AWAY_AFTER
        swept = progress.swept and not away
        if began - watching_since >= LOST_AFTER:
            if swept:
                found, after = await self._look_up(progress.after, MOST_LOOKUPS)
                ended += found
            else:
                ended += await self._sweep()
                swept = True
        return ReconcileResult(
            until=began - OVERLAP, ended=ended, watching_since=watching_since, after=after, swept=swept
        )

    async def _sweep(self) -> int:
        """Look up all instances with a recorded run."""
        ended, after = await self._look_up("", SCANNED_ROWS)
        while after:
            more, after = await self._look_up(after, SCANNED_ROWS)
            ended += more
        return ended

    async def _look_up(self, after: str, most: int) -> tuple[int, str]:
        """Look up the next instances; returns the number of those that it ended, and the id for the next."""
        async with self._database.connection() as connection:
            found, after = await instances.scan_running(connection, after, most)
        ended = 0
        for chunk in _chunks(found, LOOKUPS_AT_ONCE):
            ended += sum(await asyncio.gather(*(self._end_if_closed(each, may_be_lost=True) for each in chunk)))
        return ended, after

    async def _suspects(self, since: datetime | None) -> AsyncIterator[Unfinished]:
        closed = [instance_id async for instance_id in self._closed(since)]
        for chunk in _chunks(closed, _CHUNK):
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
            self.problems.note(instance.instance_id, failing=tasks_fail(described))
            if described.run_id in instance.replaced_runs and may_be_lost:
                ending = _ending_of_unknown(instance, may_be_lost=True)  # Temporal has only older runs
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
    if not may_be_lost or instance.run_id in instance.replaced_runs:  # the outbox has the replay
        return None
    if instance.reason is not None:  # of a cancellation, which no replay may undo
        return Ending(InstanceStatus.CANCELLED, instance.run_id)
    return Ending(
        InstanceStatus.FAILED, instance.run_id, history_lost(), HISTORY_LOST, problem=ProblemKind.HISTORY_LOST
    )


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[begin : begin + size] for begin in range(0, len(items), size))
