"""Postgres is killed during requests: they are 503 and not 500, and every event that was answered with 202 is
stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import httpx
import pytest

from api.resources import Resources, limiter_database
from models.vocabulary import Role
from privacy.encryption import Cipher
from runtime import migrate
from runtime.database import Database
from runtime.embedded.postgres import EmbeddedPostgres, scratch_postgres
from runtime.settings import Settings
from tests.support.builders import user
from tests.support.events import add_user, event
from tests.support.http import BASE_URL, application, assert_problem, bearer, new_key

UNDER_WAY = [
    ("GET", "/users/u-1", None),
    ("GET", "/users/u-1/events", None),
    ("GET", "/users/u-1/consents", None),
    ("POST", "/users", user("u-2")),
    ("PATCH", "/users/u-1", {"name": "Grace"}),
    ("POST", "/users/batch", {"users": [user("u-3")]}),
    ("PUT", "/users/u-1/consents/marketing", {"granted": True}),
    ("DELETE", "/users/u-1/consents/marketing", None),
    (
        "POST",
        "/consents/batch",
        {"consents": [{"user_id": "u-1", "purpose": "marketing", "granted": True}]},
    ),
    ("POST", "/events", event()),
    ("POST", "/events/batch", {"events": [event(), event()]}),
]


@dataclass(frozen=True)
class Served:
    """An application and its Postgres."""

    client: httpx.AsyncClient
    server: EmbeddedPostgres

    async def restart(self) -> None:
        self.server.kill()
        await self.server.wait()
        await self.server.start()


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[EmbeddedPostgres]:
    """A Postgres to be killed. Its machine survives, so it needn't wait for the disk."""
    async with scratch_postgres() as server:
        owner = await asyncpg.connect(server.owner_url)
        database = await owner.fetchval("SELECT quote_ident(current_database())")
        await owner.execute(f"ALTER DATABASE {database} SET synchronous_commit = on")
        await owner.close()
        settings = Settings(database_url=server.runtime_url, migration_database_url=server.owner_url)
        await asyncio.to_thread(migrate.upgrade, settings)
        yield server


@pytest.fixture(scope="module")
async def served(server: EmbeddedPostgres, api_settings: Settings, cipher: Cipher) -> AsyncIterator[Served]:
    settings = api_settings.model_copy(update={"database_url": server.runtime_url})
    database = Database(server.runtime_url, size=16, application="api")
    resources = Resources(settings, database, limiter_database(server.runtime_url), cipher, None)
    transport = httpx.ASGITransport(application(resources))
    await resources.open()
    headers = bearer(await new_key(database, Role.ADMIN))
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers) as client:
        await add_user(client)
        yield Served(client, server)
    await resources.close()


async def test_open_requests_are_503_when_postgres_is_killed(served: Served) -> None:
    holder, watcher = [await asyncpg.connect(served.server.owner_url) for _ in range(2)]
    await holder.execute("BEGIN; LOCK TABLE users, consents, data_keys IN ACCESS EXCLUSIVE MODE")
    requests = [
        asyncio.create_task(served.client.request(method, path, json=document))
        for method, path, document in UNDER_WAY
    ]
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0"
    async with asyncio.timeout(10):
        while await watcher.fetchval(waiting) < len(requests):
            await asyncio.sleep(0.01)
    await served.restart()
    for answer in await asyncio.gather(*requests):
        assert_problem(answer, 503, "store_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    assert (await served.client.post("/events", json=event())).status_code == 202
    holder.terminate()
    watcher.terminate()


async def test_accepted_events_survive_a_kill_of_postgres_and_the_others_are_503(served: Served) -> None:
    accepted: set[str] = set()
    statuses: set[int] = set()
    over = asyncio.Event()

    async def send(alone: bool) -> None:
        while not over.is_set():
            events = [event() for _ in range(1 if alone else 20)]
            if alone:
                answer = await served.client.post("/events", json=events[0])
            else:
                answer = await served.client.post("/events/batch", json={"events": events})
            statuses.add(answer.status_code)
            if answer.status_code == 202:
                accepted.update(each["event_id"] for each in events)
            else:
                assert_problem(answer, 503, "store_unavailable")
                await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as senders:
        for number in range(8):
            senders.create_task(send(number % 2 == 0))
        for _ in range(2):
            before = len(accepted)
            while len(accepted) < before + 100:
                await asyncio.sleep(0.01)
            await served.restart()
        over.set()
    assert statuses == {202, 503}
    stored: set[str] = set()
    path: str | None = "/users/u-1/events?limit=1000"
    while path:
        page = (await served.client.get(path)).json()
        stored.update(each["event_id"] for each in page["data"])
        cursor = page["pagination"]["next_cursor"]
        path = cursor and f"/users/u-1/events?limit=1000&cursor={cursor}"
    assert accepted <= stored
