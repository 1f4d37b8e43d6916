"""`kill -9` of the worker and of Postgres at the points that the projector's docstring names.

The test holds a lock that stops the projector at a point: the cursor's row before its move, a user's totals before
all effects are written, the waits after them. After the kill each event counts exactly once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from activities.projector import Found
from models.rules.sharding import SHARDS, shard_of
from models.temporal.system import projector_id
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.embedded.postgres import EmbeddedPostgres
from runtime.settings import Settings
from store.users import users
from tests.support.log import Happening, Log, drain, purchase
from tests.support.postgres import durable_postgres
from tests.support.processes import PerennialProcess
from worker import build_system_workers
from workflows.system.jobs import HEARTBEAT

TAKEN_OVER_WITHIN = 10.0
POINTS = {
    "before the cursor's move": "SELECT FROM log_cursors FOR UPDATE",
    "in the middle of the effects": "SELECT FROM user_activity FOR UPDATE",
    "after the effects": "LOCK TABLE event_waits IN ACCESS EXCLUSIVE MODE",
}
FIRST, *OTHERS = POINTS


async def until(condition: Callable[[], Awaitable[bool]], within: float = 30.0) -> float:
    """Wait for a condition; returns the seconds that it took."""
    began = time.monotonic()
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.02)
    return time.monotonic() - began


@asynccontextmanager
async def stopped_at(point: str, url: str) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    """Hold the lock of a point; yields a function that says whether a transaction waits there."""
    holder, watcher = await asyncpg.connect(url), await asyncpg.connect(url)

    async def waiting() -> bool:
        return bool(
            await watcher.fetchval(
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid)))",
                holder.get_server_pid(),
            )
        )

    try:
        await holder.execute("BEGIN")
        await holder.execute(POINTS[point])
        yield waiting
    finally:
        holder.terminate()
        watcher.terminate()


@pytest.fixture
def log(database: Database, cipher: Cipher) -> Log:
    return Log(database, cipher)


class Workers:
    """Worker processes that project."""

    def __init__(self, client: Client, settings: Settings, directory: Path, stack: AsyncExitStack) -> None:
        self._client = client
        self._settings = settings
        self._directory = directory
        self._stack = stack

    async def start(self) -> PerennialProcess:
        process = PerennialProcess("worker", self._settings, self._directory, module="tests.events.projecting")
        await self._stack.enter_async_context(process)
        return process

    async def holder_of(self, shard: int) -> int:
        """The process id of the worker that follows a shard, or 0."""
        handle = self._client.get_workflow_handle(projector_id(shard))
        for pending in (await handle.describe()).raw_description.pending_activities:
            if pending.attempt and pending.last_worker_identity:
                return int(pending.last_worker_identity.split("@")[0])
        return 0


@pytest.fixture
async def workers(
    skipping: WorkflowEnvironment, system: Client, database_url: str, key_file: Path, tmp_path: Path
) -> AsyncIterator[Workers]:
    settings = Settings(
        environment="embedded",
        database_url=database_url,
        key_file=key_file,
        temporal_address=skipping.client.service_client.config.target_host,
        task_queue=f"projecting-{tmp_path.name}",
    )
    async with AsyncExitStack() as stack:
        yield Workers(system, settings, tmp_path, stack)
    for shard in range(SHARDS):
        await system.get_workflow_handle(projector_id(shard)).terminate()


@pytest.mark.slow
@pytest.mark.parametrize("point", [FIRST, *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)])
async def test_each_event_counts_once_after_a_worker_was_killed_in_the_middle_of_a_batch(
    log: Log,
    workers: Workers,
    database_url: str,
    owner: asyncpg.Connection[asyncpg.Record],
    postgres: EmbeddedPostgres,
    point: str,
) -> None:
    user = await log.person()
    await log.write(purchase(user, "1"))
    await log.project()
    await log.write(*(purchase(user, "1", historical=False) for _ in range(50)), Happening(user, session_id="s-2"))
    renamed = {"changes": {"name": "Grace"}}
    await log.write(Happening(user, "user.profile_update", properties=renamed, historical=False))
    async with stopped_at(point, postgres.owner_url) as waiting:  # its transaction id is higher than the events'
        worker = await workers.start()
        await until(waiting)
        worker.kill()
        await worker.wait()
    await workers.start()

    async def projected() -> bool:
        return (await log.activity(user)).session_count == 2

    await until(projected)
    await asyncio.sleep(0.3)
    activity = await log.activity(user)
    assert (activity.total_purchases, activity.session_count) == (51, 2)
    assert activity.totals[0].revenue == 51
    async with log.database.connection() as connection:
        stored = await users.find(connection, log.cipher, user)
    assert (stored.profile.name, stored.version) == ("Grace", 2)


async def test_three_heartbeats_are_sent_per_heartbeat_timeout(
    skipping: WorkflowEnvironment, worker_settings: Settings, database: Database, cipher: Cipher
) -> None:
    workers = build_system_workers(skipping.client, skipping.client, worker_settings, database, cipher)
    for worker in workers:
        assert worker.config(active_config=True)["max_heartbeat_throttle_interval"] < HEARTBEAT / 3


@pytest.mark.slow
async def test_a_dead_workers_shards_move_to_another_worker_within_ten_seconds(log: Log, workers: Workers) -> None:
    processes = [await workers.start() for _ in range(2)]
    people = [await log.person(shard) for shard in range(SHARDS)]

    async def held() -> bool:
        return all([await workers.holder_of(shard) for shard in range(SHARDS)])

    async def projected() -> bool:
        return all([(await log.activity(user)).total_purchases for user in people])

    await until(held)
    holder = await workers.holder_of(0)
    victim = next(each for each in processes if each.pid == holder)
    victim.kill()
    await log.write(*(purchase(user, "1") for user in people))
    assert await until(projected) < TAKEN_OVER_WITHIN


@pytest.mark.slow
async def test_the_shards_of_a_worker_that_shuts_down_move_at_once(log: Log, workers: Workers) -> None:
    first = await workers.start()
    user = await log.person()

    async def followed() -> bool:
        return await workers.holder_of(shard_of(user)) == first.pid

    async def projected() -> bool:
        return (await log.activity(user)).total_purchases == 1

    await until(followed)
    await workers.start()
    await log.write(purchase(user, "1"))
    await first.stop()
    assert await until(projected) < 2


@pytest.mark.slow
async def test_workers_killed_at_any_time_lose_no_event_and_count_none_twice(log: Log, workers: Workers) -> None:
    people = [await log.person() for _ in range(8)]
    written = 0

    async def projected() -> bool:
        return sum([(await log.activity(user)).total_purchases for user in people]) >= written

    for round_ in range(4):
        worker = await workers.start()
        for _ in range(10 + 3 * round_):
            await log.write(*(purchase(user, "1") for user in people for _ in range(5)))
            written += 5 * len(people)
        worker.kill()
        await worker.wait()
    await workers.start()
    await until(projected)
    await asyncio.sleep(0.3)
    for user in people:
        activity = await log.activity(user)
        assert activity.totals[0].revenue == activity.total_purchases == written // len(people)


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedPostgres]:
    async with durable_postgres() as server:
        yield server


@pytest.fixture
async def own_log(server: EmbeddedPostgres, cipher: Cipher) -> AsyncIterator[Log]:
    database = Database(server.runtime_url, size=8, application="test")
    await database.open()
    yield Log(database, cipher)
    await database.close()


async def restart(server: EmbeddedPostgres) -> None:
    server.kill()
    await server.wait()
    await server.start()


@pytest.mark.slow
async def test_each_event_counts_once_after_postgres_was_killed_in_the_middle_of_a_batch(
    own_log: Log, server: EmbeddedPostgres
) -> None:
    user = await own_log.person()
    follower = own_log.follower(shard_of(user))
    await own_log.write(purchase(user, "1"))
    await drain(follower)
    expected = 1
    for point in POINTS:
        await own_log.write(*(purchase(user, "1", historical=False) for _ in range(50)))
        expected += 50
        async with stopped_at(point, server.owner_url) as waiting:
            step = asyncio.create_task(follower.step())
            await until(waiting)
            await restart(server)
        assert await step is None
        await drain(follower)
        assert (await own_log.activity(user)).total_purchases == expected
    for _ in range(3):
        await own_log.write(*(purchase(user, "1") for _ in range(50)))
        expected += 50
        assert await follower.step() is Found.SOME
        await restart(server)  # before the commits that don't wait for the disk are on it
        await drain(follower)
        assert (await own_log.activity(user)).total_purchases == expected
