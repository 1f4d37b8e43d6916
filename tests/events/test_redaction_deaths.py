"""`kill -9` of the worker and of Postgres within a page: the next worker takes it, and each event counts once.

A lock of the test stops the page at one of three points: at the redaction's row before the position moves, at the
log before events are written, at the audit log after that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from activities.redaction import Redactions
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.embedded.postgres import EmbeddedPostgres
from runtime.settings import Settings
from store.connection import Connection
from store.events import redactions
from tests.support.log import Happening, Log
from tests.support.postgres import durable_postgres
from tests.support.processes import PerennialProcess
from tests.support.redactions import redact_page

POINTS = {
    "before the position is moved": "SELECT FROM redactions FOR UPDATE",
    "before the events are written": "LOCK TABLE events IN SHARE MODE",
    "after the events are written": "LOCK TABLE audit_log IN SHARE ROW EXCLUSIVE MODE",
}
EVENTS = 20


@asynccontextmanager
async def stopped_at(point: str, url: str) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Hold the lock of a point; yields a function that returns once a session waits for the lock."""
    holder, watcher = await asyncpg.connect(url), await asyncpg.connect(url)

    async def waiting() -> None:
        waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid)))"
        async with asyncio.timeout(60):
            while not await watcher.fetchval(waits, holder.get_server_pid()):
                await asyncio.sleep(0.02)

    try:
        await holder.execute("BEGIN")
        await holder.execute(POINTS[point])
        yield waiting
    finally:
        holder.terminate()
        watcher.terminate()


async def _opted_out(log: Log, owner: Connection) -> str:
    """A person with events who has just opted out of `gender`."""
    user_id = await log.person()
    properties = {"gender": "f", "plan": "pro"}
    await log.write(*(Happening(user_id, properties=properties, event_id=f"e-{n}") for n in range(EVENTS)))
    await owner.execute("UPDATE users SET privacy_preferences = '{\"gender\": false}' WHERE user_id = $1", user_id)
    async with log.database.transaction() as connection:
        await redactions.request(connection, [user_id])
    return user_id


async def _left(log: Log, owner: Connection, user_id: str) -> int:
    """The number of events that still have `gender`; asserts that none has lost anything else."""
    wrapped = await owner.fetchval("SELECT wrapped FROM data_keys WHERE subject = $1", user_id)
    key = log.cipher.unwrap(user_id, wrapped)
    rows = await owner.fetch("SELECT event_id, body FROM events WHERE user_id = $1", user_id)
    bodies = [key.decrypt_json("events.body", row["body"], row["event_id"]) for row in rows]
    properties = [body["event_properties"] for body in bodies]
    assert [each["plan"] for each in properties] == ["pro"] * EVENTS
    return sum("gender" in each for each in properties)


async def _audited(owner: Connection, user_id: str) -> list[str]:
    rows = await owner.fetch(
        "SELECT details->>'events' FROM audit_log WHERE action = 'events.strip' AND user_id = $1", user_id
    )
    return [row[0] for row in rows]


async def _until_redacted(owner: Connection) -> None:
    async with asyncio.timeout(60):
        while await owner.fetchval("SELECT count(*) FROM redactions"):
            await asyncio.sleep(0.02)


FIRST, *OTHERS = POINTS
"""Slow: each waits for the heartbeat time-out of the dead worker."""


@pytest.mark.slow
@pytest.mark.parametrize("point", [FIRST, *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)])
async def test_a_worker_killed_in_the_middle_of_a_page_leaves_it_to_the_next(
    skipping: WorkflowEnvironment,
    system: Client,
    database: Database,
    cipher: Cipher,
    owner: Connection,
    postgres: EmbeddedPostgres,
    key_file: Path,
    tmp_path: Path,
    point: str,
) -> None:
    log = Log(database, cipher)
    user_id = await _opted_out(log, owner)
    settings = Settings(
        environment="embedded",
        database_url=postgres.runtime_url,
        key_file=key_file,
        temporal_address=skipping.client.service_client.config.target_host,
        task_queue=f"redactions-{tmp_path.name}",
    )
    with skipping.with_time_skipping_disabled():
        async with stopped_at(point, postgres.owner_url) as waiting:
            async with PerennialProcess("worker", settings, tmp_path) as worker:
                await waiting()
                worker.kill()
                await worker.wait()
            assert await _left(log, owner, user_id) == EVENTS
        async with PerennialProcess("worker", settings, tmp_path):
            await _until_redacted(owner)
        await system.get_workflow_handle("system/redaction").terminate()
    assert await _left(log, owner, user_id) == 0
    assert await _audited(owner, user_id) == [str(EVENTS)]


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedPostgres]:
    async with durable_postgres() as server:
        yield server


@pytest.mark.slow
async def test_postgres_killed_in_the_middle_of_a_page_and_after_it_leaves_no_event_unredacted(
    server: EmbeddedPostgres, cipher: Cipher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redactions, "PAGE", EVENTS - 1)
    database = Database(server.runtime_url, size=4, application="test")
    await database.open()
    log = Log(database, cipher)
    owner = await asyncpg.connect(server.owner_url)
    user_id = await _opted_out(log, owner)
    for point in ("before the events are written", None):
        async with database.connection() as connection:
            [pending] = await redactions.due(connection, 1)
        if point is None:
            await redact_page(database, cipher, pending)  # the crash may lose its commit
            await _restart(server)
        else:
            async with stopped_at(point, server.owner_url) as waiting:
                page = asyncio.create_task(redact_page(database, cipher, pending))
                await waiting()
                await _restart(server)
            assert isinstance((await asyncio.gather(page, return_exceptions=True))[0], Exception)
        owner = await asyncpg.connect(server.owner_url)
    over = asyncio.Event()
    working = asyncio.create_task(Redactions(database, cipher).apply_while(lambda: not over.is_set()))
    await _until_redacted(owner)
    over.set()
    await working
    assert await _left(log, owner, user_id) == 0
    assert await _audited(owner, user_id) == [str(EVENTS)]
    await owner.close()
    await database.close()


async def _restart(server: EmbeddedPostgres) -> None:
    server.kill()
    await server.wait()
    await server.start()
