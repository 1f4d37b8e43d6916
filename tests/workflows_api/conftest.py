"""The API application with a real Temporal and a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from activities.outbox import Outbox
from api.resources import Resources, limiter_database
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.process import polling
from runtime.settings import Settings
from testing.people import Customer
from tests.support.http import Clients, application, clients_of
from worker import build_system_workers, build_worker, startables

SHORT = {"first_activity_within": "PT0.1S", "nudge_within": "PT0.1S"}


@pytest.fixture
def settings(database_url: str, key_file: Path, tmp_path: Path) -> Settings:
    return Settings(
        environment="embedded",
        database_url=database_url,
        key_file=key_file,
        task_queue=f"api-{tmp_path.name}",
        temporal_ui_url="http://127.0.0.1:8233",
        worker_graceful_shutdown_seconds=0,
    )


@pytest.fixture
async def api(
    settings: Settings,
    skipping: WorkflowEnvironment,
    temporal: Client,
    database: Database,
    database_url: str,
    cipher: Cipher,
) -> AsyncIterator[Clients]:
    """Clients for each role; instances run on the real clock."""
    limiter = limiter_database(database_url)
    await limiter.open()
    app = application(Resources(settings, database, limiter, cipher, temporal))
    with skipping.with_time_skipping_disabled():
        async with clients_of(app, database) as clients:
            yield clients
    await limiter.close()


@pytest.fixture
async def working(settings: Settings, temporal: Client, database: Database, cipher: Cipher) -> AsyncIterator[None]:
    """A worker for this test's task queue."""
    async with build_worker(temporal, settings, database, cipher):
        yield


@pytest.fixture
async def system_working(
    settings: Settings, temporal: Client, system: Client, database: Database, cipher: Cipher
) -> AsyncIterator[None]:
    """Workers for the system's jobs, none of which is started."""
    async with polling(build_system_workers(temporal, system, settings, database, cipher)):
        yield


@pytest.fixture
async def delivering(
    settings: Settings, temporal: Client, system: Client, database: Database, cipher: Cipher, system_working: None
) -> AsyncIterator[None]:
    """The loop of the outbox's activity, and workers for callbacks."""
    outbox = Outbox(database, cipher, temporal, system, settings.task_queue, startables())
    task = asyncio.create_task(outbox.deliver_while(lambda: True))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def execute(api: Clients, customer: Customer, **body: Any) -> httpx.Response:
    """Execute onboarding for a customer, as an operator."""
    return await api.operator.post(
        "/workflows/onboarding/execute", json={"user_id": customer.user_id, "again": True, **body}
    )


async def until(api: Clients, path: str, **wanted: Any) -> dict[str, Any]:
    """The instance, once it has these values."""
    async with asyncio.timeout(60):
        while True:
            instance: dict[str, Any] = (await api.admin.get(path)).json()
            if all(instance[name] == value for name, value in wanted.items()):
                return instance
            await asyncio.sleep(0.02)
