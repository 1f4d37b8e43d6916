"""An application on a real Postgres, and a client for each role."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from temporalio.client import Client

from api.resources import Resources, limiter_database
from privacy.encryption import Cipher
from privacy.keyring import KeyRing
from runtime.database import Database
from runtime.embedded.postgres import EmbeddedPostgres
from runtime.settings import Settings
from runtime.temporal import EncryptedPayloads, connect
from tests.support.http import Clients, application, clients_of

NOWHERE = "127.0.0.1:1"
"""An address without a Temporal server."""


@pytest.fixture(scope="session")
def api_settings(postgres: EmbeddedPostgres, key_file: Path) -> Settings:
    return Settings(
        environment="embedded",
        database_url=postgres.runtime_url,
        migration_database_url=postgres.owner_url,
        key_file=key_file,
        temporal_address=NOWHERE,
        max_body_bytes=2 * 1024 * 1024,
    )


@pytest.fixture(scope="session")
async def limiter(database_url: str) -> AsyncIterator[Database]:
    limiter = limiter_database(database_url)
    await limiter.open()
    yield limiter
    await limiter.close()


@pytest.fixture(scope="session")
async def no_temporal(api_settings: Settings, key_ring: KeyRing) -> Client:
    """A client of a Temporal server that doesn't exist."""
    codec = EncryptedPayloads(key_ring.payload.current, key_ring.payload.keys)
    return await connect(api_settings, codec)


@pytest.fixture(scope="session")
def resources(
    api_settings: Settings, pool: Database, limiter: Database, cipher: Cipher, no_temporal: Client
) -> Resources:
    return Resources(api_settings, pool, limiter, cipher, no_temporal)


@pytest.fixture(scope="session")
def app(resources: Resources) -> FastAPI:
    return application(resources)


@pytest.fixture
async def api(app: FastAPI, database: Database) -> AsyncIterator[Clients]:
    async with clients_of(app, database) as clients:
        yield clients
