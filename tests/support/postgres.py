"""A server that a test may kill."""

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
    """A durable Postgres of the test's own, migrated, to be killed."""
    with temporary_directory() as directory:
        home = Home(directory / "home")
        with home.held():
            async with EmbeddedPostgres(home) as server:
                settings = Settings(database_url=server.runtime_url, migration_database_url=server.owner_url)
                await asyncio.to_thread(migrate.upgrade, settings)
                yield server
