"""After a logical dump and restore the projector projects the events that were left, and new ones."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from temporalio.testing import WorkflowEnvironment

from api.resources import Resources, limiter_database
from models.rules.sharding import SHARDS
from models.temporal.system import projector_id
from models.vocabulary import Purpose, Role
from privacy.encryption import Cipher
from runtime import migrate
from runtime.database import Database
from runtime.embedded.postgres import EmbeddedPostgres, scratch_postgres
from runtime.embedded.postgres_files import binaries, environment
from runtime.provisioning import in_namespace
from runtime.settings import Settings
from store.consents import consents
from store.consents.consents import ConsentDecision
from store.events import log as store_log
from tests.support.events import purchase as sent
from tests.support.http import BASE_URL, application, bearer, new_key
from tests.support.log import Log, purchase
from tests.support.processes import ROOT, PerennialProcess, environment_of

GRANTED = ConsentDecision(Purpose.DATA_COLLECTION, True, "test", None, "consent")
USED_UP = 3000
"""The transaction ids that the first cluster is ahead of a new one."""


@asynccontextmanager
async def log_on(server: EmbeddedPostgres, cipher: Cipher) -> AsyncIterator[Log]:
    database = Database(server.runtime_url, size=4, application="test")
    await database.open()
    yield Log(database, cipher)
    await database.close()


async def run(program: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(str(binaries() / program), *arguments, env=environment())
    assert await process.wait() == 0


async def settled(log: Log) -> int:
    async with log.database.transaction() as connection:
        return await store_log.settle_generation(connection)


async def migrated(server: EmbeddedPostgres) -> None:
    """Run the command that the runbook names after a restore."""
    settings = Settings(database_url=server.runtime_url, migration_database_url=server.owner_url)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", "migrate", cwd=ROOT, env=environment_of(settings)
    )
    assert await process.wait() == 0


@asynccontextmanager
async def working(
    server: EmbeddedPostgres, temporal: WorkflowEnvironment, key_file: Path, directory: Path
) -> AsyncIterator[None]:
    """A worker process that projects."""
    settings = Settings(
        environment="embedded",
        database_url=server.runtime_url,
        key_file=key_file,
        temporal_address=temporal.client.service_client.config.target_host,
        task_queue=f"restored-{directory.name}",
    )
    async with PerennialProcess("worker", settings, directory, module="tests.events.projecting"):
        yield
    system = in_namespace(temporal.client, settings.system_namespace)
    for shard in range(SHARDS):
        await system.get_workflow_handle(projector_id(shard)).terminate()


@asynccontextmanager
async def serving(
    server: EmbeddedPostgres, settings: Settings, cipher: Cipher
) -> AsyncIterator[httpx.AsyncClient]:
    """An admin's client of the API."""
    database = Database(server.runtime_url, size=4, application="api")
    resources = Resources(settings, database, limiter_database(server.runtime_url), cipher, None)
    await resources.open()
    headers = bearer(await new_key(database, Role.ADMIN))
    transport = httpx.ASGITransport(application(resources))
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers) as client:
        yield client
    await resources.close()


async def until_revenue(client: httpx.AsyncClient, user: str, revenue: str) -> None:
    async with asyncio.timeout(30):
        while (await client.get(f"/users/{user}")).json()["transactions"]["total_revenue"] != revenue:
            await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("seen_by_a_migration", [False, True])
async def test_a_restored_log_continues_in_a_new_generation(
    cipher: Cipher,
    skipping: WorkflowEnvironment,
    api_settings: Settings,
    key_file: Path,
    tmp_path: Path,
    seen_by_a_migration: bool,
) -> None:
    dump = tmp_path / "dump.sql"
    async with scratch_postgres() as server, log_on(server, cipher) as log:
        settings = Settings(database_url=server.runtime_url, migration_database_url=server.owner_url)
        await asyncio.to_thread(migrate.upgrade, settings)
        user = await log.person()
        async with log.database.connection() as connection:
            for _ in range(USED_UP):
                await connection.fetchval("SELECT pg_current_xact_id()")
        async with log.database.transaction() as connection:
            await consents.decide(connection, user, GRANTED, actor="test")
        await log.write(purchase(user, "1"))
        await log.project()
        await log.write(purchase(user, "10"))
        if seen_by_a_migration:
            assert await settled(log) == 1
        await run("pg_dump", "--no-comments", "--file", str(dump), server.owner_url)
    async with scratch_postgres() as server, log_on(server, cipher) as log:
        await run("psql", "--quiet", "--output", "/dev/null", "--file", str(dump), server.owner_url)
        await migrated(server)
        async with log.database.connection() as connection:
            assert await connection.fetchval("SELECT generation FROM log_generation") == 2
        async with working(server, skipping, key_file, tmp_path), serving(server, api_settings, cipher) as client:
            await until_revenue(client, user, "11.00")  # the event that was left
            for amount, total in (("100", "111.00"), ("1000", "1111.00")):
                answer = await client.post("/events", json=sent(user_id=user, amount=amount))
                assert answer.status_code == 202, answer.text
                await until_revenue(client, user, total)
        await migrated(server)
        async with log.database.connection() as connection:
            assert await connection.fetchval("SELECT generation FROM log_generation") == 2
