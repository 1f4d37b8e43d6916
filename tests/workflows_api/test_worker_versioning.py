"""Workers with a build id."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from temporalio.api.workflowservice.v1 import SetWorkerDeploymentCurrentVersionRequest
from temporalio.client import Client
from temporalio.service import RPCError

from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import ConfigurationError, Settings
from testing.people import Customer
from tests.support.http import Clients
from tests.workflows_api.conftest import SHORT, execute, until
from worker import build_worker


async def _make_current(temporal: Client, deployment: str, build_id: str) -> None:
    """As `temporal worker deployment set-current-version` does once the workers poll."""
    request = SetWorkerDeploymentCurrentVersionRequest(
        namespace=temporal.namespace,
        deployment_name=deployment,
        build_id=build_id,
        identity="test",
        ignore_missing_task_queues=True,
    )
    async with asyncio.timeout(60):
        while True:
            try:
                await temporal.workflow_service.set_worker_deployment_current_version(request)
            except RPCError:  # no worker has polled yet
                await asyncio.sleep(0.1)
            else:
                return


async def test_instances_run_on_the_current_build_and_move_to_the_next(
    api: Clients,
    customer: Customer,
    settings: Settings,
    temporal: Client,
    database: Database,
    cipher: Cipher,
) -> None:
    name = f"perennial-{uuid.uuid4().hex[:8]}"

    def build(build_id: str) -> Settings:
        return settings.model_copy(update={"worker_deployment": name, "worker_build_id": build_id})

    async with build_worker(temporal, build("build-1"), database, cipher):
        await _make_current(temporal, name, "build-1")
        short = (await execute(api, customer, parameters=SHORT)).headers["location"]
        await until(api, short, status="completed")
        long = (await execute(api, customer)).headers["location"]
        await until(api, long, current_step="wait_for_first_activity")
    async with build_worker(temporal, build("build-2"), database, cipher):
        await _make_current(temporal, name, "build-2")
        assert (await api.operator.delete(long)).status_code == 202
        await until(api, long, status="cancelled")


def test_a_build_id_without_a_deployment_stops_the_start(
    settings: Settings, temporal: Client, database: Database, cipher: Cipher
) -> None:
    for half in ({"worker_deployment": "perennial"}, {"worker_build_id": "build-1"}):
        with pytest.raises(ConfigurationError):
            build_worker(temporal, settings.model_copy(update=half), database, cipher)
