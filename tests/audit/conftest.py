"""The API over a real Postgres, and direct access to the audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from privacy.audit_chain import CheckpointKey
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.embedded.postgres import EmbeddedPostgres
from tests.api.conftest import api, api_settings, app, limiter, no_temporal, resources
from tests.audit.log import Log

__all__ = ["api", "api_settings", "app", "limiter", "no_temporal", "resources"]


@pytest.fixture(scope="session")
async def superuser(postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection with all rights on the database."""
    name = urlsplit(postgres.runtime_url).path.removeprefix("/")
    connection = await asyncpg.connect(postgres.superuser_url, database=name)
    yield connection
    await connection.close()


@pytest.fixture
def log(database: Database, superuser: asyncpg.Connection[asyncpg.Record], cipher: Cipher) -> Log:
    """The audit log of an empty database."""
    return Log(database, superuser, CheckpointKey(cipher))
