"""Fixtures: a real Postgres, migrated once and emptied before each test that uses it, and the keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from models.tables.registry import TABLES
from privacy.encryption import Cipher
from privacy.keyring import KeyFile, KeyRing
from runtime import migrate
from runtime.database import Database
from runtime.embedded.postgres import EmbeddedPostgres, scratch_postgres
from runtime.settings import Settings

_POOL_SIZE = 16
# Some twenty times faster than TRUNCATE, for the few rows of a test.
_EMPTY = "; ".join(f"DELETE FROM {table.__table__.name}" for table in TABLES)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A server for this test process, with the migrated schema."""
    async with scratch_postgres() as server:
        settings = Settings(database_url=server.runtime_url, migration_database_url=server.owner_url)
        await asyncio.to_thread(migrate.upgrade, settings)
        yield server


@pytest.fixture(scope="session")
def database_url(postgres: EmbeddedPostgres) -> str:
    return postgres.runtime_url


@pytest.fixture(scope="session")
async def owner(postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection of the owner, for statements that the runtime role may not execute."""
    connection = await asyncpg.connect(postgres.owner_url)
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
async def pool(database_url: str) -> AsyncIterator[Database]:
    pool = Database(database_url, size=_POOL_SIZE, application="test")
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
async def database(pool: Database, owner: asyncpg.Connection[asyncpg.Record]) -> Database:
    """The runtime role's pool on an emptied database."""
    await owner.execute(_EMPTY)
    return pool


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    KeyFile(path).create()
    return path


@pytest.fixture(scope="session")
def key_ring(key_file: Path) -> KeyRing:
    return KeyFile(key_file).load()


@pytest.fixture(scope="session")
def cipher(key_ring: KeyRing) -> Cipher:
    return Cipher(key_ring)
