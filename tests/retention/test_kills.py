"""`kill -9` of the worker at each point that the docstrings argue about: the next one finishes, counts exact."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from models.rules.retention import EVENTS
from models.temporal.system import (
    RETENTION,
    Queue,
    RetentionOutcome,
    RetentionRun,
    retention_id,
    system_task_queue,
)
from runtime.database import Database
from runtime.embedded.postgres import EmbeddedPostgres
from runtime.settings import Settings
from store.connection import Connection
from tests.retention.filling import (
    WHOLE,
    audited,
    count,
    fill,
    mark_projected,
    partition_states,
    results,
)
from tests.support.processes import PerennialProcess

pytestmark = pytest.mark.slow

PARTITION = f"events_{WHOLE:%Y_%m}"
ROWS = 20_000


class Stage:
    """A worker process to kill, and a run for it."""

    def __init__(self, settings: Settings, directory: Path, system: Client, owner: Connection) -> None:
        self.settings = settings
        self.system = system
        self.owner = owner
        self.worker = PerennialProcess("worker", settings, directory)

    @asynccontextmanager
    async def blocking(self) -> AsyncIterator[Connection]:
        """A transaction of the owner's whose locks block the worker."""
        connection = await asyncpg.connect(self.settings.migration_database_url)
        async with connection.transaction():
            yield connection
        await connection.close()

    async def start(self) -> WorkflowHandle[object, RetentionOutcome]:
        run = RetentionRun(run_id=uuid.uuid4().hex, requested_by="a-test", data_types=[EVENTS])
        return await self.system.start_workflow(
            RETENTION,
            run,
            id=retention_id(run.run_id),
            task_queue=system_task_queue(self.settings.task_queue, Queue.MAINTENANCE),
            result_type=RetentionOutcome,
        )

    async def until(self, condition: Callable[[], Awaitable[object]]) -> None:
        async with asyncio.timeout(30):
            while not await condition():
                await asyncio.sleep(0)

    async def die(self) -> None:
        self.worker.kill()
        await self.worker.wait()

    async def finish(self, run: WorkflowHandle[object, RetentionOutcome]) -> None:
        """Let another worker finish the run, and check that all rows are deleted."""
        await self.worker.start()
        async with asyncio.timeout(60):
            assert (await run.result()).failed == []
        assert [await count(self.owner, table) for table in ("events", "event_ids", "sessions")] == [0, 0, 0]


@pytest.fixture
async def stage(
    skipping: WorkflowEnvironment,
    system: Client,
    database: Database,
    postgres: EmbeddedPostgres,
    owner: Connection,
    key_file: Path,
    tmp_path: Path,
) -> AsyncIterator[Stage]:
    settings = Settings(
        environment="embedded",
        database_url=postgres.runtime_url,
        migration_database_url=postgres.owner_url,
        key_file=key_file,
        temporal_address=skipping.client.service_client.config.target_host,
        task_queue=f"retention-{tmp_path.name}",
    )
    with skipping.with_time_skipping_disabled():
        stage = Stage(settings, tmp_path, system, owner)
        await fill(owner, "old-", WHOLE, WHOLE + timedelta(days=31), ROWS)
        await mark_projected(owner)
        yield stage
        await stage.worker.end()


async def test_a_worker_that_dies_while_a_partition_is_detaching(stage: Stage) -> None:
    async with stage.blocking() as dump:
        assert await count(dump, "events") == ROWS
        await stage.worker.start()
        run = await stage.start()

        async def detaching() -> bool:
            return (await partition_states(stage.owner))[PARTITION] is True

        await stage.until(detaching)
        await stage.die()
    await stage.finish(run)
    expected = {(PARTITION, "dropped"): ROWS, ("event_ids", "deleted"): ROWS, ("sessions", "deleted"): ROWS}
    assert await audited(stage.owner) == await results(stage.owner) == expected


async def test_a_worker_that_dies_between_the_drop_and_its_audit_row(stage: Stage) -> None:
    async with stage.blocking() as reader:
        await reader.execute("LOCK TABLE audit_log IN SHARE ROW EXCLUSIVE MODE")
        await stage.worker.start()
        run = await stage.start()

        async def waits_for_the_audit_log() -> object:
            return await stage.owner.fetchval(
                "SELECT true FROM pg_locks WHERE relation = 'audit_log'::regclass AND NOT granted"
            )

        await stage.until(waits_for_the_audit_log)
        await stage.die()
        assert (await partition_states(stage.owner))[PARTITION] is None
    assert await audited(stage.owner) == {}
    await stage.finish(run)
    assert (await audited(stage.owner))[PARTITION, "dropped"] == ROWS


async def test_a_worker_that_dies_between_a_partition_and_its_ids(stage: Stage) -> None:
    await stage.worker.start()
    run = await stage.start()

    async def dropped() -> bool:
        return PARTITION not in await partition_states(stage.owner)

    await stage.until(dropped)
    await stage.die()
    assert await count(stage.owner, "event_ids") > 0
    await stage.finish(run)
    expected = {(PARTITION, "dropped"): ROWS, ("event_ids", "deleted"): ROWS, ("sessions", "deleted"): ROWS}
    assert await audited(stage.owner) == expected


async def test_a_worker_without_the_owners_connection_that_dies_between_batches(
    stage: Stage, tmp_path: Path
) -> None:
    settings = stage.settings.model_copy(update={"migration_database_url": None})
    stage.worker = PerennialProcess("worker", settings, tmp_path)
    await stage.worker.start()
    run = await stage.start()

    async def begun() -> bool:
        return await count(stage.owner, "events") < ROWS

    await stage.until(begun)
    await stage.die()
    left = await count(stage.owner, "events")
    assert 0 < left == await count(stage.owner, "event_ids")
    deleted = ROWS - left
    assert await audited(stage.owner) == {(PARTITION, "deleted"): deleted, ("event_ids", "deleted"): deleted}
    await stage.finish(run)
    assert (await audited(stage.owner))[PARTITION, "deleted"] == ROWS
    assert await stage.owner.fetchval("SELECT count(DISTINCT xid) FROM audit_log") > 2
