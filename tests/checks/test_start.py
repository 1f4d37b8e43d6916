"""A server that doesn't answer at a process' start is checked as soon as it does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from runtime import migrate
from runtime.embedded.home import Home
from runtime.embedded.postgres import scratch_postgres
from runtime.embedded.temporal_server import EmbeddedTemporal
from runtime.settings import Settings
from tests.checks.support import api_settings
from tests.embedded.directories import temporary_directory
from tests.embedded.running import RunningStack
from tests.support.processes import PerennialProcess

pytestmark = pytest.mark.slow


@pytest.fixture
def directory() -> Iterator[Path]:
    with temporary_directory() as path:
        yield path


async def test_processes_that_started_before_postgres_end_if_it_lacks_the_schema(tmp_path: Path) -> None:
    async with scratch_postgres() as server, EmbeddedTemporal(Home(tmp_path / "home")) as temporal:
        addresses = Settings(database_url=server.runtime_url, migration_database_url=server.owner_url)
        settings = api_settings(addresses, tmp_path, temporal.address)
        await server.stop()
        async with (
            PerennialProcess("api", settings, tmp_path) as api,
            PerennialProcess("worker", settings, tmp_path) as worker,
        ):
            await server.start()
            assert (await api.wait(), await worker.wait()) == (1, 1)
            for process in (api, worker):
                said = process.log().rstrip().splitlines()[-1]
                assert said == "perennial: The database has no schema of Perennial; run `perennial migrate`."


async def test_the_embedded_stack_on_a_database_of_another_encoding_ends_with_a_sentence(directory: Path) -> None:
    async with scratch_postgres() as server:
        superuser = await asyncpg.connect(server.superuser_url)
        await superuser.execute("CREATE DATABASE narrow ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
        await superuser.close()
        url = server.superuser_url.removesuffix("postgres") + "narrow"
        stack = RunningStack(directory / "home", environment={"PERENNIAL_DATABASE_URL": url})
        try:
            code = await asyncio.to_thread(stack.process.wait, 60)
        finally:
            if stack.process.poll() is None:
                stack.stop()
    assert code == 1
    assert "The database's encoding is SQL_ASCII; Perennial needs a database with UTF8." in stack.output


async def test_an_api_that_started_before_a_sound_postgres_serves(tmp_path: Path) -> None:
    async with scratch_postgres() as server:
        addresses = Settings(database_url=server.runtime_url, migration_database_url=server.owner_url)
        await asyncio.to_thread(migrate.upgrade, addresses)
        await server.stop()
        settings = api_settings(addresses, tmp_path)
        async with (
            PerennialProcess("api", settings, tmp_path) as api,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.api_port}", trust_env=False) as client,
        ):
            ready = (await client.get("/health/ready")).json()
            assert ready["checks"]["postgres"] == {"status": "unavailable"}
            await server.start()
            async with asyncio.timeout(20):
                while (await client.get("/health/ready")).json()["checks"]["postgres"]["status"] != "ok":
                    await asyncio.sleep(0.1)
            assert await api.stop() == 0
