"""Finds unfinished instances that don't go on although their status is `running`, and stores why.

The reconciler calls :meth:`Problems.compare` after each comparison. So a list shows a problem within a minute, and
shows it no more within a minute after its end. If the worker dies, the next comparison writes the same.

Temporal sets the search attribute `TemporalReportedProblems` on an open run whose workflow tasks fail one after
the other. One visibility query finds these runs, however many instances wait. Older servers don't set it. There
the reconciler notes the failing runs among those that it looks up in turn, a hundred per comparison.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from temporalio.api.workflowservice.v1 import DescribeNamespaceResponse
from temporalio.client import Client

from delivery.temporal import FAILED_TASKS, POLLER_SILENT, RunUnknownError, describe, last_poll, tasks_fail
from models.temporal.identity import WORKFLOW
from models.vocabulary import ProblemKind
from runtime.database import Database
from runtime.temporal import RPC_TIMEOUT
from store.instances import instances, transitions
from store.instances.instances import Unfinished

logger = logging.getLogger("perennial.problems")

MOST_LOGGED = 20
"""The most instances that one comparison names in the log. A bad deployment may concern all."""
_OPEN = f"ExecutionStatus = 'Running' AND {WORKFLOW.name} IS NOT NULL"


class Problems:
    def __init__(self, database: Database, client: Client, task_queue: str | None) -> None:
        """``task_queue`` is that of new instances. None: instances on other queues aren't looked for."""
        self._database = database
        self._client = client
        self._task_queue = task_queue
        self._failing: set[str] = set()

    def note(self, instance_id: str, *, failing: bool) -> None:
        """Note whether a run's tasks fail, for servers that don't list such runs."""
        (self._failing.add if failing else self._failing.discard)(instance_id)

    async def compare(self, namespace: DescribeNamespaceResponse) -> None:
        """Store the problems that there are now. Raises ``RPCError``."""
        if namespace.namespace_info.capabilities.reported_problems_search_attribute:
            failing = await self._listed(f"{_OPEN} AND {FAILED_TASKS}")
        else:
            failing = await self._still_failing()
        await self._store(ProblemKind.INCOMPATIBLE_DEPLOY, failing)
        if self._task_queue is not None:
            await self._store(ProblemKind.NO_WORKER, await self._unserved(self._task_queue))

    async def _listed(self, query: str) -> list[str]:
        # A Temporal workflow id is `workflow_id/instance_id`.
        found = self._client.list_workflows(query, rpc_timeout=RPC_TIMEOUT)
        return [execution.id.rpartition("/")[2] async for execution in found]

    async def _still_failing(self) -> list[str]:
        async with self._database.connection() as connection:
            for each in await instances.unfinished(connection, self._failing):
                self.note(each.instance_id, failing=await self._fails(each))
        return list(self._failing)

    async def _fails(self, instance: Unfinished) -> bool:
        try:
            return tasks_fail(await describe(self._client, instance.workflow_id, instance.instance_id))
        except RunUnknownError:
            return False

    async def _unserved(self, task_queue: str) -> list[str]:
        """Instances on other task queues that no worker polls, for instance after the queue was renamed."""
        found: list[str] = []
        served: dict[str, bool] = {}
        query = f"{_OPEN} AND TaskQueue != '{task_queue}'"
        async for execution in self._client.list_workflows(query, rpc_timeout=RPC_TIMEOUT):
            queue = execution.task_queue
            if queue not in served:
                polled = await last_poll(self._client, queue)
                served[queue] = polled is not None and datetime.now(UTC) - polled <= POLLER_SILENT
            if not served[queue]:
                found.append(execution.id.rpartition("/")[2])
        return found

    async def _store(self, kind: ProblemKind, instance_ids: list[str]) -> None:
        async with self._database.transaction() as connection:
            new = await transitions.mark_problem(connection, kind, instance_ids)
        for workflow_id, instance_id in new[:MOST_LOGGED]:
            logger.error(
                "an instance does not go on",
                extra={"workflow_id": workflow_id, "instance_id": instance_id, "problem": kind.value},
            )
        if len(new) > MOST_LOGGED:
            logger.error("more instances do not go on", extra={"count": len(new), "problem": kind.value})
