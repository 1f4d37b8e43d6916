"""Postgres and Temporal are unreachable: the answer is 503 at once, and 200 again without a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import httpx
import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from api.problems import _translate
from api.resources import Resources, limiter_database
from models.errors import StoreUnavailableError, TemporalUnavailableError
from models.vocabulary import Role
from privacy.encryption import Cipher
from runtime import migrate
from runtime.database import Database, DatabaseUnreachableError
from runtime.embedded.postgres import EmbeddedPostgres, scratch_postgres
from runtime.settings import Settings
from store.events import partitions
from tests.support.builders import user
from tests.support.http import BASE_URL, Clients, application, assert_problem, bearer, new_key


@pytest.fixture
async def frail(api_settings: Settings) -> AsyncIterator[tuple[EmbeddedPostgres, Settings]]:
    """A migrated Postgres that the test stops."""
    async with scratch_postgres() as server:
        addresses = {"database_url": server.runtime_url, "migration_database_url": server.owner_url}
        settings = api_settings.model_copy(update=addresses)
        await asyncio.to_thread(migrate.upgrade, settings)
        yield server, settings


async def eventually(client: httpx.AsyncClient, path: str, status: int) -> httpx.Response:
    """Repeat a GET for up to ten seconds until its status is as expected."""
    deadline = time.monotonic() + 10
    while True:
        answer = await client.get(path)
        if answer.status_code == status or time.monotonic() > deadline:
            assert answer.status_code == status, answer.text
            return answer
        await asyncio.sleep(0.05)


async def test_the_api_starts_without_postgres_and_survives_its_restarts(
    frail: tuple[EmbeddedPostgres, Settings], cipher: Cipher
) -> None:
    server, settings = frail
    database = Database(server.runtime_url, size=4, application="test")
    await database.open()
    key = await new_key(database, Role.ADMIN)
    await database.close()
    await server.stop()

    pool = Database(server.runtime_url, size=4, application="api")
    resources = Resources(settings, pool, limiter_database(server.runtime_url), cipher, None)
    app = application(resources)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=bearer(key)) as client:
        await resources.open()
        try:
            assert (await client.get("/health/live")).status_code == 200
            await _assert_unavailable(client)
            await server.start()
            await eventually(client, "/users", 200)
            assert (await client.post("/users", json=user())).status_code == 201
            await server.stop()
            await _assert_unavailable(client)
            await server.start()
            assert (await eventually(client, "/users/u-1", 200)).json()["user_id"] == "u-1"
        finally:
            await resources.close()


async def _assert_unavailable(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(30):
        answer = await client.get("/users")
    assert_problem(answer, 503, "store_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    ready = await client.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json()["checks"]["postgres"] == {"status": "unavailable"}


async def make_partitions(database: Database) -> None:
    """As a migration does, without which the log's partitions are a reason to be degraded."""
    for month in partitions.months_ahead(datetime.now(UTC).date(), 1):
        async with database.connection() as connection:
            await partitions.ensure(connection, month)


async def test_readiness_names_the_unavailable_dependency(api: Clients, pool: Database) -> None:
    await make_partitions(pool)
    answer = await api.anonymous.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "unready",
        "checks": {"postgres": {"status": "ok"}, "temporal": {"status": "unavailable"}},
    }


async def test_readiness_is_200_if_all_dependencies_answer(
    resources: Resources, temporal: Client, database: Database
) -> None:
    await make_partitions(database)
    complete = Resources(resources.settings, resources.database, resources.limiter, resources.cipher, temporal)
    transport = httpx.ASGITransport(application(complete))
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client:
        answer = await client.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "checks": {"postgres": {"status": "ok"}, "temporal": {"status": "ok"}},
    }


async def test_liveness_is_200(api: Clients) -> None:
    answer = await api.anonymous.get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_a_temporal_that_was_never_reached_is_unavailable(resources: Resources) -> None:
    with pytest.raises(TemporalUnavailableError):
        await resources.require_temporal()


async def test_a_reachable_temporal_is_returned(resources: Resources, temporal: Client) -> None:
    complete = Resources(resources.settings, resources.database, resources.limiter, resources.cipher, temporal)
    assert await complete.require_temporal() is temporal


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (RPCError("gone", RPCStatusCode.UNAVAILABLE, b""), TemporalUnavailableError),
        (RPCError("slow", RPCStatusCode.DEADLINE_EXCEEDED, b""), TemporalUnavailableError),
        (RPCError("transport error", RPCStatusCode.UNKNOWN, b""), TemporalUnavailableError),
        (DatabaseUnreachableError("gone"), StoreUnavailableError),
        (asyncpg.DeadlockDetectedError("again"), StoreUnavailableError),
    ],
)
def test_a_lost_dependency_is_answered_as_unavailable(error: Exception, answer: type[Exception]) -> None:
    assert isinstance(_translate(None, error), answer)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        RPCError("bug", RPCStatusCode.INVALID_ARGUMENT, b""),
        asyncpg.UndefinedColumnError("bug"),
        LookupError("bug"),
    ],
)
def test_a_bug_is_not_answered_as_an_outage(error: Exception) -> None:
    with pytest.raises(type(error)):
        _translate(None, error)  # type: ignore[arg-type]
