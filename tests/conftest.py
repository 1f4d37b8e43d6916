"""What all tests stand on: a real Postgres, migrated once, empty at the start of every test that uses it."""

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
from runtime.embedded.postgres import EmbeddedPostgres
from runtime.embedded.scratch import scratch_postgres
from runtime.settings import Settings

_POOL_SIZE = 16
_EMPTY = "; ".join(f"DELETE FROM {table.__table__.name}" for table in TABLES)  # type: ignore[attr-defined]
"""Some twenty times faster than TRUNCATE, for the few rows of a test."""


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A server of this test process's own, with the schema that the migrations give."""
    async with scratch_postgres() as server:
        settings = Settings(database_url=server.runtime_url, migration_database_url=server.owner_url)
        await asyncio.to_thread(migrate.upgrade, settings)
        yield server


@pytest.fixture(scope="session")
def database_url(postgres: EmbeddedPostgres) -> str:
    """The runtime role's connection."""
    return postgres.runtime_url


@pytest.fixture(scope="session")
async def owner(postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection of the role that owns the tables, for what the runtime role may not do."""
    connection = await asyncpg.connect(postgres.owner_url)
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
async def pool(database_url: str) -> AsyncIterator[Database]:
    """The pool that all tests share."""
    pool = Database(database_url, size=_POOL_SIZE, application="test")
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
async def database(pool: Database, owner: asyncpg.Connection[asyncpg.Record]) -> Database:
    """The runtime role's pool on an empty database."""
    await owner.execute(_EMPTY)
    return pool


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random keys."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    KeyFile(path).create()
    return path


@pytest.fixture(scope="session")
def key_ring(key_file: Path) -> KeyRing:
    return KeyFile(key_file).load()


@pytest.fixture(scope="session")
def cipher(key_ring: KeyRing) -> Cipher:
    return Cipher(key_ring)
