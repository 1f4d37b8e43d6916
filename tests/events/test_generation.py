"""After a logical dump and restore the projector goes on: what was left is folded, and what is new."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from privacy.sealing import Sealer
from runtime import migrate
from runtime.database import Database
from runtime.embedded.postgres import EmbeddedPostgres
from runtime.embedded.postgres_files import binaries, environment
from runtime.embedded.scratch import scratch_postgres
from runtime.settings import Settings
from store import generation
from tests.support.log import Log, purchase
from tests.support.processes import ROOT, environment_of

USED_UP = 3000
"""Transaction ids that the first cluster is ahead of a fresh one by."""


@asynccontextmanager
async def log_on(server: EmbeddedPostgres, sealer: Sealer) -> AsyncIterator[Log]:
    database = Database(server.runtime_url, size=4, application="test")
    await database.open()
    yield Log(database, sealer)
    await database.close()


async def run(program: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(str(binaries() / program), *arguments, env=environment())
    assert await process.wait() == 0


async def settled(log: Log) -> int:
    async with log.database.transaction() as connection:
        return await generation.settle(connection)


async def migrated(server: EmbeddedPostgres) -> None:
    """What the runbook says to do after a restore."""
    settings = Settings(database_url=server.runtime_url, migration_database_url=server.owner_url)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", "migrate", cwd=ROOT, env=environment_of(settings)
    )
    assert await process.wait() == 0


@pytest.mark.parametrize("seen_by_a_migration", [False, True])
async def test_a_restored_log_goes_on_in_a_new_generation(
    sealer: Sealer, tmp_path: Path, seen_by_a_migration: bool
) -> None:
    dump = tmp_path / "dump.sql"
    async with scratch_postgres() as server, log_on(server, sealer) as log:
        settings = Settings(database_url=server.runtime_url, migration_database_url=server.owner_url)
        await asyncio.to_thread(migrate.upgrade, settings)
        user = await log.person()
        async with log.database.connection() as connection:
            for _ in range(USED_UP):
                await connection.fetchval("SELECT pg_current_xact_id()")
        await log.write(purchase(user, "1"))
        await log.project()
        await log.write(purchase(user, "10"))
        if seen_by_a_migration:
            assert await settled(log) == 1
        await run("pg_dump", "--no-comments", "--file", str(dump), server.owner_url)
    async with scratch_postgres() as server, log_on(server, sealer) as log:
        await run("psql", "--quiet", "--output", "/dev/null", "--file", str(dump), server.owner_url)
        await migrated(server)
        assert await settled(log) == 2
        await log.write(purchase(user, "100"))
        await log.project()
        await log.write(purchase(user, "1000"))
        await log.project()
        assert (await log.activity(user)).totals[0].revenue == Decimal(1111)
