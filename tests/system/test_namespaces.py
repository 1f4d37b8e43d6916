"""The system's jobs keep to a namespace of their own, which workers make."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, DescribeNamespaceResponse
from temporalio.client import Client
from temporalio.service import RPCError

from api.resources import Resources, limiter_database
from models.temporal.system import CALLBACK, PROJECTOR, RETENTION, retention_id
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.embedded.home import Home
from runtime.embedded.temporal_server import EmbeddedTemporal
from runtime.provisioning import SYSTEM_RETENTION, ensure_namespace, in_namespace
from runtime.settings import Settings
from runtime.temporal import EncryptedPayloads, data_converter, keep_histories
from testing.hooks import HookServer
from tests.support.builders import user
from tests.support.http import application, clients_of
from tests.support.little_stack import LittleStack, little_stack
from tests.support.processes import PerennialProcess

SHORT = {"first_activity_within": "PT0.1S", "nudge_within": "PT0.1S"}
QUEUES = {
    PROJECTOR: "system-projection",
    "outbox": "system-delivery",
    CALLBACK: "system-delivery",
    "redaction": "system-maintenance",
    "reconciler": "system-maintenance",
    "compactor": "system-maintenance",
    "partitions": "system-maintenance",
    "audit_checkpoint": "system-maintenance",
    RETENTION: "system-maintenance",
}


@pytest.fixture
def settings(database_url: str, key_file: Path) -> Settings:
    return Settings(
        environment="embedded",
        database_url=database_url,
        key_file=key_file,
        task_queue="system",
        worker_graceful_shutdown_seconds=0,
    )


@pytest.fixture
async def stack(settings: Settings, database: Database, tmp_path: Path) -> AsyncIterator[LittleStack]:
    async with little_stack(settings, tmp_path, apis=1) as running:
        yield running


async def _listed(temporal: Client) -> Counter[tuple[str, str]]:
    """How many runs of each workflow type are listed on each task queue."""
    return Counter([(run.workflow_type, run.task_queue) async for run in temporal.list_workflows()])


async def _described(temporal: Client) -> DescribeNamespaceResponse:
    return await temporal.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace=temporal.namespace)
    )


async def _until_closed(system: Client, workflow_type: str) -> None:
    """Wait until visibility, which lags, lists a run of a type that has completed."""
    query = f"WorkflowType = '{workflow_type}' AND ExecutionStatus = 'Completed'"
    async with asyncio.timeout(60):
        while not (await system.count_workflows(query)).count:
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_after_a_stack_ran_the_default_list_shows_instances_alone(
    stack: LittleStack, settings: Settings, codec: EncryptedPayloads, database: Database
) -> None:
    customers = await Client.connect(stack.temporal.address, data_converter=data_converter(codec))
    system = in_namespace(customers, settings.system_namespace)
    async with stack.clients(database) as [client], HookServer() as hooks:
        await client.post("/users", json=user())
        for _ in range(2):
            body = {"user_id": "u-1", "parameters": SHORT, "callback_url": hooks.url, "again": True}
            assert (await client.post("/workflows/onboarding/execute", json=body)).status_code == 202
        await hooks.after(lambda: len(hooks.received) == 2)
        assert (await client.post("/retention/run", json={"dry_run": False})).status_code == 202
        for workflow_type in (CALLBACK, RETENTION, "partitions", "audit_checkpoint"):
            await _until_closed(system, workflow_type)
    assert await _listed(customers) == {("onboarding", "system"): 2}
    listed = await _listed(system)
    assert listed.keys() == set(QUEUES.items())
    loops = {PROJECTOR: 4, "outbox": 1, "redaction": 1, "reconciler": 1, "compactor": 1}
    assert {name: listed[name, QUEUES[name]] for name in loops} == loops
    assert listed[CALLBACK, "system-delivery"] == 2


@pytest.fixture
async def temporal(codec: EncryptedPayloads, tmp_path: Path) -> AsyncIterator[Client]:
    """A Temporal without a system namespace."""
    async with EmbeddedTemporal(Home(tmp_path / "home")) as server:
        yield await Client.connect(server.address, data_converter=data_converter(codec))


@pytest.mark.slow
async def test_two_workers_that_start_at_once_make_the_namespace(
    temporal: Client, settings: Settings, database: Database, tmp_path: Path
) -> None:
    there = settings.model_copy(update={"temporal_address": temporal.service_client.config.target_host})
    workers = [PerennialProcess("worker", there, tmp_path) for _ in range(2)]
    try:
        await asyncio.gather(*(worker.start() for worker in workers))
        assert [await worker.stop() for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            await worker.end()
    system = in_namespace(temporal, settings.system_namespace)
    described = await _described(system)
    assert described.config.workflow_execution_retention_ttl.ToTimedelta() == SYSTEM_RETENTION
    assert {"projector/0", "system/outbox"} <= {run.id async for run in system.list_workflows()}


async def test_a_namespace_is_made_once_and_served_whoever_looked_before(temporal: Client) -> None:
    system = in_namespace(temporal, "elsewhere")
    with pytest.raises(RPCError):
        await _described(system)  # from now on Temporal remembers that it is missing
    await asyncio.gather(*(ensure_namespace(system) for _ in range(4)))
    await system.start_workflow("unknown", id="unknown", task_queue="none")


async def test_a_namespace_that_exists_keeps_its_retention(temporal: Client) -> None:
    system = in_namespace(temporal, "elsewhere")
    await ensure_namespace(system)
    await keep_histories(system, timedelta(days=30))
    await ensure_namespace(system)
    described = await _described(system)
    assert described.config.workflow_execution_retention_ttl.ToTimedelta() == timedelta(days=30)


async def test_a_retention_run_is_accepted_before_a_worker_has_made_the_namespace(
    temporal: Client, settings: Settings, database: Database, database_url: str, cipher: Cipher
) -> None:
    limiter = limiter_database(database_url)
    await limiter.open()
    app = application(Resources(settings, database, limiter, cipher, temporal))
    async with clients_of(app, database) as clients:
        answer = await clients.admin.post("/retention/run", json={"dry_run": False})
    await limiter.close()
    assert answer.status_code == 202, answer.text
    system = in_namespace(temporal, settings.system_namespace)
    started = await system.get_workflow_handle(retention_id(answer.json()["run_id"])).describe()
    assert started.task_queue == QUEUES[RETENTION]
