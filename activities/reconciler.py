"""Terminations, time-outs, lost histories, starts that never were: brought from Temporal into the stored context.

Temporal is the truth of the status. Lifecycle workflows write their end themselves; nobody does for a run that was
terminated or timed out from the Web UI or the command line, nor for a row whose process died before it told
Temporal (ADR 0008). :meth:`Reconciler.reconcile` looks three times a minute, in one long run.

A history that Temporal doesn't have any more (its database was lost, a run was deleted) closes nothing that could
be listed. So each look also asks for some of the instances that were seen running, in turn; their end can't be
taken back, so a Temporal counts as the right one only after it has been looked at for :data:`LOST_AFTER`: a worker
that was pointed at another cluster by mistake ends nothing meanwhile.

All it does is idempotent: it ends rows that have no end, of runs that no replay has replaced.
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
from temporalio.service import RPCError, RPCStatusCode

from activities.loops import run_loop
from models.temporal.ending import ENDED_AS
from models.temporal.execution import StepFailure
from models.temporal.identity import WORKFLOW, temporal_workflow_id
from models.temporal.system import ReconcileRequest, ReconcileResult
from models.vocabulary import InstanceStatus
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.temporal import RPC_TIMEOUT
from store.instances import terminal
from store.instances.terminal import Ending, Unfinished, failure_without_stack

logger = logging.getLogger("perennial.reconciler")

EVERY = timedelta(seconds=20)
OVERLAP = timedelta(minutes=2)
"""How far behind its end a look begins again: visibility lags, and clocks differ."""
UNSTARTED_AFTER = timedelta(minutes=1)
"""How long a row may be on its way to Temporal; whoever tells Temporal gives up far sooner."""
LOST_AFTER = timedelta(hours=1)
"""How long a Temporal must have been looked at before an instance that it doesn't know is taken for lost."""
ASKED_FOR = 100
"""For how many of them a look asks at most, five in a second: nearly all are well. 50,000 take three hours."""
_CHUNK = 200
_UNSAID = {
    WorkflowExecutionStatus.FAILED: "Failed",
    WorkflowExecutionStatus.TIMED_OUT: "TimedOut",
    WorkflowExecutionStatus.TERMINATED: "Terminated",
}
"""How a run closes without having written its end, as visibility calls it; a failed one mostly has."""


class Reconciler:
    """Ends what has ended."""

    def __init__(self, database: Database, cipher: Cipher, client: Client) -> None:
        self._database = database
        self._cipher = cipher
        self._client = client

    @activity.defn(name="reconciler.reconcile")
    async def reconcile(self, request: ReconcileRequest) -> ReconcileRequest:
        """Look every :data:`EVERY` for a turn; returns the request with which the next turn continues.

        Heartbeats carry the progress of the last complete look. By the moment at which the worker dies:

        1. within a look, or in the pause after it: the retry continues from the last heartbeat, at most a look
           behind. Instances that were ended already have an end, so nothing happens to them.
        2. after the turn, before Temporal has its result: as 1.

        Temporal lost with its histories loses the progress too, so :data:`LOST_AFTER` begins anew.
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
        """Look once, from the beginning where the progress is that of another namespace."""
        namespace_id = await self._namespace_id()
        if progress.namespace_id != namespace_id:
            progress = ReconcileRequest()
        result = await self.look(progress)
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

    async def look(self, asked: ReconcileRequest) -> ReconcileResult:
        """Look at the runs that have closed since then, at rows that were never started, for lost histories."""
        began = datetime.now(UTC)
        ended = 0
        async for unfinished in self._suspects(asked.since):
            ended += await self._compare(unfinished)
        watching_since, after = asked.watching_since or began, ""
        if began - watching_since >= LOST_AFTER:
            async with self._database.connection() as connection:
                found, after = await terminal.some(connection, asked.after, ASKED_FOR)
            for unfinished in found:
                ended += await self._compare(unfinished, may_be_lost=True)
        return ReconcileResult(until=began - OVERLAP, ended=ended, watching_since=watching_since, after=after)

    async def _suspects(self, since: datetime | None) -> AsyncIterator[Unfinished]:
        closed = [instance_id async for instance_id in self._closed(since)]
        for chunk in _chunks(closed):
            async with self._database.connection() as connection:
                found = await terminal.unfinished(connection, chunk)
            for each in found:
                yield each
        async with self._database.connection() as connection:
            found = await terminal.unstarted(connection, UNSTARTED_AFTER)
        for each in found:
            yield each

    async def _closed(self, since: datetime | None) -> AsyncIterator[str]:
        """The instances of runs that have closed otherwise than by themselves, or as failed."""
        closed = ", ".join(f"'{name}'" for name in _UNSAID.values())
        query = f"ExecutionStatus IN ({closed}) AND {WORKFLOW.name} IS NOT NULL"
        if since is not None:
            query += f" AND CloseTime >= '{since.isoformat()}'"
        async for execution in self._client.list_workflows(query, rpc_timeout=RPC_TIMEOUT):
            yield execution.id.rpartition("/")[2]

    async def _compare(self, unfinished: Unfinished, *, may_be_lost: bool = False) -> int:
        """End one row if Temporal says that its latest run has ended, or knows none; says how many were."""
        workflow_id = temporal_workflow_id(unfinished.workflow_id, unfinished.instance_id)
        handle = self._client.get_workflow_handle(workflow_id)
        try:
            ending = await self._ending(unfinished, await handle.describe(rpc_timeout=RPC_TIMEOUT))
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            ending = _unknown(unfinished, may_be_lost=may_be_lost)
        if ending is None:
            return 0
        async with self._database.transaction() as connection:
            return int(await terminal.end(connection, self._cipher, unfinished, ending))

    async def _ending(self, unfinished: Unfinished, told: WorkflowExecutionDescription) -> Ending | None:
        if told.status not in _UNSAID or told.run_id is None:
            return None
        status = ENDED_AS[told.status]
        failure = None
        if told.status is WorkflowExecutionStatus.TIMED_OUT:
            failure = failure_without_stack(
                "TimedOut", "Temporal ended the run: its time was over.", unfinished.current_step
            )
        elif status is InstanceStatus.FAILED:
            failure = await self._failure_of(told, unfinished.current_step)
        reason = "terminated" if told.status is WorkflowExecutionStatus.TERMINATED else None
        return Ending(status, told.run_id, failure, reason, told.close_time)

    async def _failure_of(self, told: WorkflowExecutionDescription, step: str | None) -> StepFailure:
        handle = self._client.get_workflow_handle(told.id, run_id=told.run_id)
        try:
            await handle.result(follow_runs=False, rpc_timeout=RPC_TIMEOUT)
        except WorkflowFailureError as error:
            cause = error.cause
            kind = cause.type if isinstance(cause, ApplicationError) and cause.type else type(cause).__name__
            return failure_without_stack(kind, str(cause), step)
        return failure_without_stack("Failed", "The run has failed without saying why.", step)


def _heartbeated() -> ReconcileRequest | None:
    """The progress that an attempt before this one has heartbeated."""
    details = activity.info().heartbeat_details
    return ReconcileRequest.model_validate(details[0]) if details else None


def _unknown(unfinished: Unfinished, *, may_be_lost: bool) -> Ending | None:
    if unfinished.run_id is None:
        return _never_started()
    return _lost(unfinished) if may_be_lost else None


def _lost(unfinished: Unfinished) -> Ending:
    failure = terminal.history_lost(unfinished.current_step)
    return Ending(InstanceStatus.FAILED, unfinished.run_id, failure, terminal.HISTORY_LOST, None, replayable=False)


def _never_started() -> Ending:
    return Ending(InstanceStatus.FAILED, None, terminal.never_started(), terminal.NOT_STARTED, None)


def _chunks(items: Iterable[str]) -> Iterable[list[str]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        yield chunk
