"""Starts instances over HTTP, and with Temporal's client alone."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from temporalio.client import WorkflowHandle

from benchmarks.http import Connection
from benchmarks.measure import until
from benchmarks.stack import Stack
from models.instances import NewInstance
from models.rules.triggers import resolved
from models.temporal.execution import LifecycleOutcome
from models.temporal.starting import start_input, start_options
from store.instances import transitions
from store.users import data_keys
from workflows.catalog import find

WORKFLOW = "onboarding"
_MAX_ATTEMPTS = 3
_SETTLED_WITHIN = 180.0


def new_instance(user_id: str, parameters: Mapping[str, Any], workflow_id: str = WORKFLOW) -> NewInstance:
    """An instance as the API creates it."""
    definition = find(workflow_id)
    checked = definition.parameters.model_validate(dict(parameters)).model_dump(mode="json")
    return NewInstance(
        uuid.uuid4().hex,
        workflow_id,
        user_id,
        _MAX_ATTEMPTS,
        checked,
        "bench",
        exits=resolved(definition.exits, checked),
    )


async def execute(
    connection: Connection, user_id: str, parameters: Mapping[str, Any], workflow_id: str = WORKFLOW
) -> str:
    """Start an instance over HTTP; returns its id."""
    document = {"user_id": user_id, "parameters": dict(parameters)}
    response = await connection.request("POST", f"/workflows/{workflow_id}/execute", document)
    if response.status != 202:
        raise RuntimeError(f"execute answered {response.status}: {response.body[:300]!r}")
    return str(response.json()["instance_id"])


async def store_instances(stack: Stack, new: Sequence[NewInstance]) -> None:
    """Insert the instances, so that the worker does the same work for a start by the client alone."""
    async with stack.database.transaction() as connection:
        for instance in new:
            key = await data_keys.require(connection, stack.cipher, instance.user_id)
            await transitions.insert(connection, key, instance)


async def start(stack: Stack, new: NewInstance) -> WorkflowHandle[Any, LifecycleOutcome]:
    """Start an instance with the client alone: same workflow, input, exits, search attributes and summary."""
    return await stack.temporal.start_workflow(
        new.workflow_id,
        start_input(new),
        task_queue=stack.settings.task_queue,
        **start_options(new, find(new.workflow_id).description),
    )


async def settled(stack: Stack, user_ids: Sequence[str]) -> float:
    """Wait until the users' instances are in their first wait, so that no block pays for another."""

    async def all_wait() -> bool:
        async with stack.database.connection() as connection:
            waiting = await connection.fetchval(
                """SELECT count(*) FROM instances
                    WHERE user_id = ANY($1::text[]) AND current_step = 'wait_for_first_activity'""",
                list(user_ids),
            )
        return bool(waiting == len(user_ids))

    return await until(all_wait, _SETTLED_WITHIN, "the instances did not reach their first wait")
