"""A server for tests that kill it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runtime import migrate
from runtime.embedded.home import Home
from runtime.embedded.postgres import EmbeddedPostgres
from runtime.settings import Settings
from tests.embedded.directories import temporary_directory


@asynccontextmanager
async def durable_postgres() -> AsyncIterator[EmbeddedPostgres]:
    """Run a durable, migrated Postgres for one test."""
    with temporary_directory() as directory:
        home = Home(directory / "home")
        with home.locked():
            async with EmbeddedPostgres(home) as server:
                settings = Settings(database_url=server.runtime_url, migration_database_url=server.owner_url)
                await asyncio.to_thread(migrate.upgrade, settings)
                yield server
