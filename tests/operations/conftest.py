"""Two API processes and a worker for the tests of this folder.

Tests that deliver or reconcile by themselves stand elsewhere: this worker would do it before them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from runtime.database import Database
from runtime.settings import Settings
from tests.support.little_stack import LittleStack, little_stack


@pytest.fixture(scope="package")
async def stack(
    database_url: str, key_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LittleStack]:
    settings = Settings(
        environment="embedded",
        database_url=database_url,
        key_file=key_file,
        task_queue="operations",
        worker_graceful_shutdown_seconds=0,
    )
    async with little_stack(settings, tmp_path_factory.mktemp("operations")) as running:
        yield running


@pytest.fixture
async def two(stack: LittleStack, database: Database) -> AsyncIterator[list[httpx.AsyncClient]]:
    """An admin's client of each API process, on an empty database."""
    async with stack.clients(database) as clients:
        yield clients
