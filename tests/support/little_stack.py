"""API processes and a worker process on a real Temporal, for tests that need several processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from models.vocabulary import Role
from runtime.database import Database
from runtime.embedded.home import Home
from runtime.embedded.ports import free_port
from runtime.embedded.temporal_server import EmbeddedTemporal
from runtime.settings import Settings
from tests.support.http import bearer, new_key
from tests.support.processes import PerennialProcess

MODULE = "tests.support.marketed"


@dataclass
class LittleStack:
    """A running stack and the addresses of its API processes."""

    temporal: EmbeddedTemporal
    settings: Settings
    addresses: list[str]
    worker: PerennialProcess

    @asynccontextmanager
    async def clients(self, database: Database) -> AsyncIterator[list[httpx.AsyncClient]]:
        """Open an admin's client of each API process. Emptying the database makes its key invalid."""
        headers = bearer(await new_key(database, Role.ADMIN))
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    httpx.AsyncClient(base_url=address, headers=headers, trust_env=False, timeout=60)
                )
                for address in self.addresses
            ]


@asynccontextmanager
async def little_stack(settings: Settings, directory: Path, apis: int = 2) -> AsyncIterator[LittleStack]:
    """Start a stack with a Temporal of its own, on the database that the settings name."""
    async with EmbeddedTemporal(Home(directory / "home")) as temporal, AsyncExitStack() as stack:
        common = settings.model_copy(update={"temporal_address": temporal.address})
        worker = await stack.enter_async_context(PerennialProcess("worker", common, directory, MODULE))
        each = [common.model_copy(update={"api_port": free_port()}) for _ in range(apis)]
        for one in each:
            await stack.enter_async_context(PerennialProcess("api", one, directory, MODULE))
        yield LittleStack(temporal, common, [f"http://127.0.0.1:{one.api_port}" for one in each], worker)
