"""Retention during ingest and projection: no request waits for it or gets a 5xx."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from temporalio.testing import WorkflowEnvironment

from models.vocabulary import Role
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.embedded.ports import free_port
from runtime.embedded.postgres import EmbeddedPostgres
from runtime.settings import Settings
from store.connection import Connection
from store.retention import periods
from tests.retention.filling import (
    WHOLE,
    audited,
    begin_purge,
    count,
    fill,
    mark_projected,
    partition_states,
    with_owner,
)
from tests.support.events import add_user, event
from tests.support.http import Clients, assert_problem, bearer, new_key
from tests.support.log import Log
from tests.support.processes import PerennialProcess

PARTITION = f"events_{WHOLE:%Y_%m}"
ROWS = 10_000


@pytest.fixture
def log(database: Database, cipher: Cipher) -> Log:
    return Log(database, cipher)


@pytest.fixture
async def other(
    skipping: WorkflowEnvironment, database: Database, api_settings: Settings, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API in another process; a third process runs the projector."""
    settings = api_settings.model_copy(
        update={
            "api_port": free_port(),
            "temporal_address": skipping.client.service_client.config.target_host,
            "task_queue": f"during-ingest-{tmp_path.name}",
        }
    )
    async with AsyncExitStack() as stack:
        stack.enter_context(skipping.with_time_skipping_disabled())
        for process in (
            PerennialProcess("api", settings, tmp_path),
            PerennialProcess("worker", settings, tmp_path, "tests.events.projecting"),
        ):
            await stack.enter_async_context(process)
        yield await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{settings.api_port}",
                headers=bearer(await new_key(database, Role.ADMIN)),
                trust_env=False,
                timeout=60,
            )
        )


@pytest.mark.slow
async def test_ingest_and_projector_continue_while_a_partition_is_detached_and_dropped(
    other: httpx.AsyncClient,
    database: Database,
    owner: Connection,
    postgres: EmbeddedPostgres,
    log: Log,
) -> None:
    await add_user(other, lifecycle_stage_pinned=True)
    await fill(owner, "old-", WHOLE, WHOLE + timedelta(days=31), ROWS)
    await mark_projected(owner)
    sent = 0

    async def send() -> None:
        nonlocal sent
        answer = await other.post("/events/batch", json={"events": [event(session_id=f"s-{sent}")]})
        assert (answer.status_code, answer.json()["accepted"]) == (202, 1), answer.text
        sent += 1

    async def projected() -> bool:
        return (await log.activity("u-1")).session_count == sent

    async with with_owner(database, postgres.owner_url) as events:
        async with database.connection() as connection, connection.transaction():
            assert await count(connection, "events") == ROWS  # DETACH waits for this transaction, as for a dump
            removing = asyncio.create_task(events.run(await begin_purge(database)))
            async with asyncio.timeout(30):
                while (await partition_states(owner))[PARTITION] is not True:
                    await asyncio.sleep(0.01)
                await send()
                while not await projected():  # the horizon isn't held back
                    await asyncio.sleep(0.01)
            assert (await partition_states(owner))[PARTITION] is True
        while not removing.done():
            await send()
        await removing
    async with asyncio.timeout(30):
        while not await projected():
            await asyncio.sleep(0.01)
    assert await count(owner, "events") == await count(owner, "event_ids") == sent
    assert (await audited(owner))[PARTITION, "dropped"] == ROWS


async def test_an_event_whose_partition_was_dropped_under_a_shorter_period_is_expired(
    api: Clients,
    database: Database,
    owner: Connection,
    postgres: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await add_user(api.admin)
    await api.admin.put("/retention/events", json={"days": 3650})
    old = event(timestamp=WHOLE.isoformat())
    assert (await api.admin.post("/events", json=old)).status_code == 202  # this process has seen the partition
    await mark_projected(owner)
    await api.admin.put("/retention/events", json={"days": 365})
    async with with_owner(database, postgres.owner_url) as events:
        await events.run(await begin_purge(database))
    assert PARTITION not in await partition_states(owner)
    today = periods.days_of
    asked = 0

    async def as_it_was_when_the_request_began(connection: Connection, data_type: str) -> int:
        nonlocal asked
        asked += 1
        return 3650 if asked == 1 else await today(connection, data_type)

    monkeypatch.setattr(periods, "days_of", as_it_was_when_the_request_began)
    answer = await api.admin.post("/events", json=event(timestamp=WHOLE.isoformat()))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["code"] == "event_expired"
    assert asked == 2


async def test_an_event_of_a_detaching_partition_is_a_503_with_retry_after(
    api: Clients, database: Database, owner: Connection, postgres: EmbeddedPostgres
) -> None:
    await add_user(api.admin)
    await fill(owner, "old-", WHOLE, WHOLE + timedelta(days=31), 100)
    await mark_projected(owner)
    await owner.execute(f"ALTER TABLE events DETACH PARTITION {PARTITION} CONCURRENTLY")
    await api.admin.put("/retention/events", json={"days": 3650})
    old = event(timestamp=WHOLE.isoformat())
    answer = await api.admin.post("/events", json=old)
    assert_problem(answer, 503, "month_on_its_way_out")
    assert answer.headers["retry-after"]
    async with with_owner(database, postgres.owner_url) as events:
        await events.run(await begin_purge(database))
    assert (await api.admin.post("/events", json=old)).status_code == 202
    assert await count(owner, "events") == 101
