"""Deletes workflow histories from Temporal."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

_CONCURRENCY = 8
_RPC_TIMEOUT = timedelta(seconds=10)
_GONE_WITHIN_SECONDS = 15.0


class Histories:
    """Deletes histories, at most eight at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._limit = asyncio.Semaphore(_CONCURRENCY)

    async def delete(self, workflow_id: str) -> int | None:
        """Delete the histories of all runs of a workflow id, verify the deletion, and return their number.

        Returns None if a run is still open, or if Temporal hasn't deleted one in time. Then call it again later.
        """
        async with self._limit:
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
        """The ids of all runs of a workflow id (resets add runs); None if one of them is open."""
        runs = set()
        quoted = workflow_id.replace("\\", "\\\\").replace("'", "\\'")
        async for each in self._client.list_workflows(f"WorkflowId = '{quoted}'", rpc_timeout=_RPC_TIMEOUT):
            # Visibility is eventually consistent: a run that it lists as open may have closed.
            if each.status is WorkflowExecutionStatus.RUNNING and await self._is_open(workflow_id, each.run_id):
                return None
            runs.add(each.run_id)
        # It may also lack the latest run. A describe without a run id finds that one.
        latest = await self._describe(workflow_id, None)
        if latest is not None:
            status, run_id = latest
            if status is WorkflowExecutionStatus.RUNNING:
                return None
            runs.add(run_id)
        return runs

    async def _is_open(self, workflow_id: str, run_id: str) -> bool:
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
        """Wait until a run is deleted, since Temporal deletes it only after its response; False on time-out."""
        # Deleting a run that has just closed takes up to half a minute; older ones are gone at once.
        deadline = asyncio.get_running_loop().time() + _GONE_WITHIN_SECONDS
        wait = 0.02
        while await self._describe(workflow_id, run_id) is not None:
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(wait)
            wait = min(wait * 2, 1.0)
        return True
