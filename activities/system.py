"""Making sure that the platform's own workflows run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from models.temporal.public_text import PublicText
from runtime.temporal import RPC_TIMEOUT


async def ensure_running(
    client: Client, task_queue: str, workflow: str, *, workflow_id: str, summary: str, args: Sequence[Any] = ()
) -> None:
    """Start a system workflow; one that runs is left alone, unless it runs on another task queue than this
    worker's: then nobody might be there for it, and it begins anew on this one."""

    async def start(if_running: WorkflowIDConflictPolicy) -> WorkflowHandle[Any, Any]:
        return await client.start_workflow(
            workflow,
            args=args,
            id=workflow_id,
            task_queue=task_queue,
            id_conflict_policy=if_running,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=PublicText(summary),
            rpc_timeout=RPC_TIMEOUT,
        )

    handle = await start(WorkflowIDConflictPolicy.USE_EXISTING)
    if (await handle.describe(rpc_timeout=RPC_TIMEOUT)).task_queue != task_queue:
        await start(WorkflowIDConflictPolicy.TERMINATE_EXISTING)
