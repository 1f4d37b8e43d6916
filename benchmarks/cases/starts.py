"""Starting instances the two ways that are compared: over HTTP, and with Temporal's client alone."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from benchmarks.http import Connection
from benchmarks.measure import until
from benchmarks.stack import Stack
from models.messages.execution import LifecycleInput
from models.messages.identity import initial_search_attributes, temporal_workflow_id
from store import data_keys, instances
from store.instances import NewInstance

WORKFLOW = "onboarding"
_MAX_ATTEMPTS = 3
_SETTLED_WITHIN = 180.0


def new_instance(user_id: str, parameters: Mapping[str, str]) -> NewInstance:
    """An instance as the API makes one."""
    return NewInstance(uuid.uuid4().hex, WORKFLOW, user_id, _MAX_ATTEMPTS, dict(parameters), "bench")


async def execute(connection: Connection, user_id: str, parameters: Mapping[str, str]) -> str:
    """Start an instance over HTTP; gives its id."""
    document = {"user_id": user_id, "parameters": dict(parameters)}
    answer = await connection.request("POST", f"/workflows/{WORKFLOW}/execute", document)
    if answer.status != 202:
        raise RuntimeError(f"execute answered {answer.status}: {answer.body[:300]!r}")
    return str(answer.json()["instance_id"])


async def store_instances(stack: Stack, new: Sequence[NewInstance]) -> None:
    """Write the rows that the workflows will look for, so that a bare start makes the workers work as much."""
    async with stack.database.transaction() as connection:
        for instance in new:
            key = await data_keys.require(connection, stack.sealer, instance.user_id)
            await instances.insert(connection, key, instance)


async def start(stack: Stack, new: NewInstance) -> None:
    """Start an instance with the client alone: the same workflow, input and search attributes."""
    await stack.temporal.start_workflow(
        new.workflow_id,
        LifecycleInput(
            instance_id=new.instance_id,
            user_id=new.user_id,
            max_attempts=new.max_attempts,
            parameters=new.parameters,
        ),
        id=temporal_workflow_id(new.workflow_id, new.instance_id),
        task_queue=stack.settings.task_queue,
        search_attributes=initial_search_attributes(new.workflow_id, new.user_id),
    )


async def settled(stack: Stack, user_ids: Sequence[str]) -> float:
    """Wait until these users' instances stand at their first wait, so that no round is charged for another."""

    async def all_wait() -> bool:
        async with stack.database.connection() as connection:
            waiting = await connection.fetchval(
                """SELECT count(*) FROM instances
                    WHERE user_id = ANY($1::text[]) AND current_step = 'wait_for_first_activity'""",
                list(user_ids),
            )
        return bool(waiting == len(user_ids))

    return await until(all_wait, _SETTLED_WITHIN, "the instances did not come to their first wait")
