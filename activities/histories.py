"""Temporal's histories of instances: how long Temporal keeps them, and their deletion before that.

The namespace's retention is set to that of execution logs, so that Temporal lets closed histories go by itself:
at the start of every worker, with every run of the retention, and when an admin changes the period. Temporal
decides the end of a history when it closes, so that a changed period holds for those that close from then on;
what is past a shortened one is deleted here.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from models.temporal.identity import temporal_workflow_id
from store.retention.purge import EndedInstance

_AT_ONCE = 8
_RPC_TIMEOUT = timedelta(seconds=10)
_GONE_WITHIN_SECONDS = 15.0


class Histories:
    """Deletes histories from Temporal."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def delete(self, instance: EndedInstance) -> int | None:
        """Delete the histories of all runs of an instance, and see that they are gone; how many there were.

        None where Temporal has a run that isn't closed, or hasn't let go of one in time: then the instance's row
        must stay, since by it the histories are found again.
        """
        workflow_id = temporal_workflow_id(instance.workflow_id, instance.instance_id)
        async with self._turns:
            runs = await self._closed_runs(workflow_id)
            if runs is None:
                return None
            for run_id in runs:
                await self._delete_run(workflow_id, run_id)
            for run_id in runs:
                if not await self._is_gone(workflow_id, run_id):
                    return None
            return len(runs)

    async def _closed_runs(self, workflow_id: str) -> set[str] | None:
        """All runs that Temporal knows of a workflow id; None where one of them isn't closed.

        Resets make several. Visibility lists all of them; what it doesn't have yet is the latest, which a
        describe finds.
        """
        runs = set()
        quoted = workflow_id.replace("\\", "\\\\").replace("'", "\\'")
        async for each in self._client.list_workflows(f"WorkflowId = '{quoted}'", rpc_timeout=_RPC_TIMEOUT):
            if each.status is WorkflowExecutionStatus.RUNNING and await self._runs(workflow_id, each.run_id):
                return None
            runs.add(each.run_id)
        latest = await self._describe(workflow_id, None)
        if latest is not None:
            status, run_id = latest
            if status is WorkflowExecutionStatus.RUNNING:
                return None
            runs.add(run_id)
        return runs

    async def _runs(self, workflow_id: str, run_id: str) -> bool:
        """Whether a run that visibility calls running does run."""
        found = await self._describe(workflow_id, run_id)
        return found is not None and found[0] is WorkflowExecutionStatus.RUNNING

    async def _describe(
        self, workflow_id: str, run_id: str | None
    ) -> tuple[WorkflowExecutionStatus | None, str] | None:
        handle = self._client.get_workflow_handle(workflow_id, run_id=run_id)
        try:
            found = await handle.describe(rpc_timeout=_RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise
        return found.status, found.run_id

    async def _delete_run(self, workflow_id: str, run_id: str) -> None:
        request = DeleteWorkflowExecutionRequest(
            namespace=self._client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
        )
        try:
            await self._client.workflow_service.delete_workflow_execution(request, timeout=_RPC_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise

    async def _is_gone(self, workflow_id: str, run_id: str) -> bool:
        """Whether Temporal, which deletes later than it answers, has let go of a run in time.

        For one that closed long ago that is at once; for one that has just closed, up to half a minute.
        """
        deadline = asyncio.get_running_loop().time() + _GONE_WITHIN_SECONDS
        wait = 0.02
        while await self._describe(workflow_id, run_id) is not None:
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(wait)
            wait = min(wait * 2, 1.0)
        return True
