"""Temporal down, or without the history: the API answers from Postgres, and rejects starts and commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client

from activities.outbox import UNAVAILABLE_PAUSE, Outbox
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from tests.support.builders import user
from tests.support.http import assert_problem
from tests.support.little_stack import LittleStack, little_stack
from worker import startables

pytestmark = pytest.mark.slow

EXECUTE = "/workflows/onboarding/execute"
SHORT = {"first_activity_within": "PT0.1S", "nudge_within": "PT0.1S"}


@pytest.fixture(scope="module")
async def frail(
    database_url: str, key_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LittleStack]:
    """A stack whose Temporal the tests stop."""
    settings = Settings(environment="embedded", database_url=database_url, key_file=key_file, task_queue="outages")
    async with little_stack(settings, tmp_path_factory.mktemp("outages"), apis=1) as running:
        yield running


async def _until(client: httpx.AsyncClient, path: str, **wanted: Any) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            instance: dict[str, Any] = (await client.get(path)).json()
            if all(instance.get(name) == value for name, value in wanted.items()):
                return instance
            await asyncio.sleep(0.1)


async def test_the_api_answers_from_postgres_while_temporal_is_down(
    frail: LittleStack, database: Database
) -> None:
    async with frail.clients(database) as [client]:
        await client.post("/users", json=user())
        waiting = (await client.post(EXECUTE, json={"user_id": "u-1"})).headers["location"]
        body = {"user_id": "u-1", "parameters": SHORT, "again": True}
        finished = (await client.post(EXECUTE, json=body)).headers["location"]
        await _until(client, waiting, current_step="wait_for_first_activity")
        outcome = await _until(client, finished, status="completed")

        await frail.temporal.stop()
        shown = (await client.get(waiting)).json()
        assert (shown["stale"], shown["status"], shown["current_step"]) == (
            True,
            "running",
            "wait_for_first_activity",
        )
        assert (await client.get(finished)).json() == outcome
        for path in (EXECUTE, f"{waiting}/pause"):
            called_back = {**body, "callback_url": "http://127.0.0.1:9/"}
            refused = await client.post(path, json=called_back if path is EXECUTE else None)
            assert_problem(refused, 503, "temporal_unavailable")
            assert int(refused.headers["retry-after"]) >= 1
        refused = await client.delete(waiting)
        assert_problem(refused, 503, "temporal_unavailable")
        assert len((await client.get("/users/u-1/instances")).json()["data"]) == 2
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM callbacks") == 0, "deleted with its instance"

        await frail.temporal.start()
        await _until(client, waiting, stale=False, status="running")
        again = await client.post(EXECUTE, json=body, headers={"Prefer": "wait=30"})
        assert (again.status_code, again.json()["status"]) == (200, "completed")


async def test_the_api_answers_from_postgres_after_the_history_is_gone(
    frail: LittleStack, database: Database
) -> None:
    async with frail.clients(database) as [client]:
        await client.post("/users", json=user())
        body = {"user_id": "u-1", "parameters": SHORT, "again": True}
        path = (await client.post(EXECUTE, json=body)).headers["location"]
        outcome = await _until(client, path, status="completed")
        temporal = await Client.connect(frail.temporal.address)
        execution = WorkflowExecution(workflow_id=outcome["temporal"]["workflow_id"])
        await temporal.workflow_service.delete_workflow_execution(
            DeleteWorkflowExecutionRequest(namespace="default", workflow_execution=execution)
        )
        assert (await client.get(path)).json() == outcome
        assert_problem(await client.delete(path), 409, "already_finished")


async def test_a_withdrawal_during_an_outage_cancels_its_instances_as_soon_as_temporal_is_back(
    frail: LittleStack, database: Database, cipher: Cipher
) -> None:
    """Entries are retried every two seconds during the outage, and the attempts don't count.

    The test runs an outbox of its own, since the worker's may be between two turns.
    """
    temporal = await Client.connect(frail.temporal.address)
    outbox = Outbox(database, cipher, temporal, temporal, "outages", startables())
    async with frail.clients(database) as [client], database.connection() as connection:
        await client.post("/users", json=user(consents={"data_collection": True, "marketing": True}))
        path = (await client.post("/workflows/newsletter/execute", json={"user_id": "u-1"})).headers["location"]
        await _until(client, path, current_step="wait_for_visit")
        await frail.temporal.stop()
        delivering = asyncio.create_task(outbox.deliver_while(lambda: True))
        assert (await client.delete("/users/u-1/consents/marketing")).status_code == 200
        due = "SELECT due_at, attempts, due_at - now() FROM temporal_outbox WHERE kind = 'cancel'"
        tries: dict[datetime, tuple[int, timedelta]] = {}
        async with asyncio.timeout(120):
            while len(tries) < 2:  # the first is the time of the write
                [(due_at, attempts, pause)] = await connection.fetch(due)
                tries.setdefault(due_at, (attempts, pause))
                await asyncio.sleep(0.1)
        assert {attempts for attempts, _ in tries.values()} == {0}
        assert max(pause for _, pause in tries.values()) <= UNAVAILABLE_PAUSE
        await frail.temporal.start()
        assert (await _until(client, path, status="cancelled"))["reason"] == "consent_withdrawn"
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
