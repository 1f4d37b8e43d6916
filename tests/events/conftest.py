"""The API over a real Postgres: in this process, as the tests of the API run it, and as two processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest

from models.vocabulary import Role
from runtime.database import Database
from runtime.embedded.ports import free_port
from runtime.settings import Settings
from tests.api.conftest import api, api_settings, app, limiter, no_temporal, resources
from tests.support.http import bearer, new_key
from tests.support.processes import PerennialProcess

__all__ = ["api", "api_settings", "app", "limiter", "no_temporal", "resources"]


@pytest.fixture(scope="package")
async def addresses(api_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[str]]:
    """Two API processes over one database."""
    async with AsyncExitStack() as stack:
        settings = [api_settings.model_copy(update={"api_port": free_port()}) for _ in range(2)]
        for each in settings:
            await stack.enter_async_context(PerennialProcess("api", each, tmp_path_factory.mktemp("api")))
        yield [f"http://127.0.0.1:{each.api_port}" for each in settings]


@pytest.fixture
async def two(addresses: list[str], database: Database) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A client for each process."""
    headers = bearer(await new_key(database, Role.ADMIN))
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=address, headers=headers, trust_env=False, timeout=60)
            )
            for address in addresses
        ]
