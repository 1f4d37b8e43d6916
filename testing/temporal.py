"""Fixtures: a time-skipping Temporal, a worker on it, and a customer."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.testing import TimeSkippingConfig, WorkflowEnvironment

from models.temporal.identity import SEARCH_ATTRIBUTES
from privacy.encryption import Cipher
from privacy.keyring import KeyRing
from runtime.database import Database
from runtime.process import polling
from runtime.provisioning import ensure_namespace, in_namespace
from runtime.settings import Settings
from runtime.temporal import EncryptedPayloads, data_converter
from testing.hooks import HookServer
from testing.mail import MailServer
from testing.people import Customer, Customers
from testing.runs import Runs
from worker import build_system_workers, build_worker

FLAGGED_AFTER = "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute"
"""Failures after which Temporal flags a run whose workflow tasks fail; 0: never."""


@pytest.fixture(scope="session")
def codec(key_ring: KeyRing) -> EncryptedPayloads:
    return EncryptedPayloads(key_ring.payload.current, key_ring.payload.keys)


@pytest.fixture(scope="session")
async def skipping(codec: EncryptedPayloads) -> AsyncIterator[WorkflowEnvironment]:
    async with skipping_temporal(codec) as environment:
        yield environment


@asynccontextmanager
async def skipping_temporal(codec: EncryptedPayloads, *more: str) -> AsyncIterator[WorkflowEnvironment]:
    """Run a Temporal that skips time; ``more`` are dynamic configuration values."""
    binary = shutil.which("temporal") or shutil.which("temporal", path=str(Path(sys.executable).parent))
    dynamic = (
        "frontend.WorkflowTimeSkippingEnabled=true",
        'history.timerProcessorMaxTimeShift="1ms"',
        "history.timerProcessorMaxPollRPS=1000",
        "history.transferProcessorMaxPollRPS=300",
        # Temporal deletes a history only after acknowledging its end, by default every 30 s.
        'history.transferProcessorUpdateAckInterval="1s"',
        # As in the embedded stack, unless ``more`` has another.
        *([] if any(each.startswith(FLAGGED_AFTER) for each in more) else [f"{FLAGGED_AFTER}=2"]),
        *more,
    )
    environment = await WorkflowEnvironment.start_time_skipping_v2(
        ts_config=TimeSkippingConfig(max_session_skip_count=10_000),
        dev_server_existing_path=binary,
        dev_server_extra_args=[part for value in dynamic for part in ("--dynamic-config-value", value)],
        data_converter=data_converter(codec),
        search_attributes=SEARCH_ATTRIBUTES,
    )
    async with environment:
        yield environment


@pytest.fixture
def temporal(skipping: WorkflowEnvironment) -> Client:
    return skipping.client


@pytest.fixture(scope="session")
async def system(skipping: WorkflowEnvironment) -> Client:
    """A client for the system namespace of the same Temporal."""
    client = in_namespace(skipping.client, Settings().system_namespace)
    await ensure_namespace(client)
    return client


@pytest.fixture
async def mail() -> AsyncIterator[MailServer]:
    async with MailServer() as server:
        yield server


@pytest.fixture
async def hooks() -> AsyncIterator[HookServer]:
    async with HookServer() as server:
        yield server


@pytest.fixture
def worker_settings(mail: MailServer) -> Settings:
    return Settings(
        environment="embedded",
        task_queue=f"test-{id(mail)}",
        smtp_url=mail.url,
        smtp_from="Perennial <hello@shop.example.com>",
        worker_graceful_shutdown_seconds=0,
    )


@pytest.fixture
async def runs(
    skipping: WorkflowEnvironment, database: Database, cipher: Cipher, worker_settings: Settings
) -> AsyncIterator[Runs]:
    async with build_worker(skipping.client, worker_settings, database, cipher):
        yield Runs(skipping, database, cipher, worker_settings.task_queue)


@pytest.fixture
async def system_jobs(
    temporal: Client, system: Client, database: Database, cipher: Cipher, worker_settings: Settings
) -> AsyncIterator[None]:
    """Workers for the system's jobs; the test starts the jobs."""
    async with polling(build_system_workers(temporal, system, worker_settings, database, cipher)):
        yield


DAY = timedelta(days=1)


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    return await Customer.new(database, cipher)


@pytest.fixture
def customers(database: Database, cipher: Cipher) -> Customers:
    return Customers(database, cipher)
