"""Loops: one long run, whose progress outlives turns and workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from activities import loops, reconciler
from activities.reconciler import LOST_AFTER, Reconciler
from models.temporal.system import ReconcileRequest
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from testing.people import Customer
from testing.runs import Runs
from tests.support.jobs import loop
from tests.support.processes import PerennialProcess
from worker import start_loop

RECONCILER = "system/reconciler"
TAKEN_OVER_WITHIN = 15.0
"""Seconds: the heartbeat timeout of 5, and time for a loaded machine."""


class Reconciling:
    """The reconciler's workflow, as Temporal shows it."""

    def __init__(self, system: Client) -> None:
        self._system = system
        self._handle: WorkflowHandle[object, object] = system.get_workflow_handle(RECONCILER)

    async def progress(self) -> tuple[ReconcileRequest, int] | None:
        """What the activity has heartbeated, and the process id of its worker."""
        for pending in (await self._handle.describe()).raw_description.pending_activities:
            if pending.heartbeat_details.payloads:
                payloads = list(pending.heartbeat_details.payloads)
                [progress] = await self._system.data_converter.decode(payloads, [ReconcileRequest])
                return progress, int(pending.last_worker_identity.split("@")[0])
        return None

    async def after(self, since: datetime | None, pid: int | None = None) -> ReconcileRequest:
        """The progress, once it is past that of a look, and is that of a process."""
        async with asyncio.timeout(60):
            while True:
                progress, holder = await self.progress() or (ReconcileRequest(), 0)
                newer = progress.since is not None and (since is None or progress.since > since)
                if newer and pid in (None, holder):
                    return progress
                await asyncio.sleep(0.02)

    async def runs(self) -> int:
        return (await self._system.count_workflows(f"WorkflowId = '{RECONCILER}'")).count


@pytest.fixture
async def reconciling(skipping: WorkflowEnvironment, system: Client) -> AsyncIterator[Reconciling]:
    with skipping.with_time_skipping_disabled():
        yield Reconciling(system)
        await system.get_workflow_handle(RECONCILER).terminate()


@pytest.mark.slow
async def test_the_reconciler_is_one_execution_after_many_looks(
    reconciling: Reconciling,
    system: Client,
    system_jobs: None,
    worker_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconciler, "COMPARE_INTERVAL", timedelta(seconds=0.1))
    before = await reconciling.runs()
    await start_loop(system, worker_settings.task_queue, loop(RECONCILER))
    since = None
    for _ in range(5):  # heartbeats, each with the progress of many looks
        since = (await reconciling.after(since)).since
    await asyncio.sleep(1)  # visibility lags
    assert await reconciling.runs() == before + 1
    history = await system.get_workflow_handle(RECONCILER).fetch_history()
    assert len(history.events) <= 7


async def test_a_turn_hands_its_progress_to_the_next(
    reconciling: Reconciling,
    system: Client,
    system_jobs: None,
    worker_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconciler, "COMPARE_INTERVAL", timedelta(seconds=0.1))
    monkeypatch.setattr(loops, "TURN_SECONDS", 3.0)
    await start_loop(system, worker_settings.task_queue, loop(RECONCILER))
    first = await reconciling.after(None)
    run_id = (await system.get_workflow_handle(RECONCILER).describe()).run_id
    async with asyncio.timeout(60):
        while (await system.get_workflow_handle(RECONCILER).describe()).run_id == run_id:
            await asyncio.sleep(0.05)
    second = await reconciling.after(first.since)
    assert (second.watching_since, second.namespace_id) == (first.watching_since, first.namespace_id)


@pytest.mark.slow
async def test_a_killed_workers_reconciler_continues_from_its_heartbeats(
    reconciling: Reconciling,
    skipping: WorkflowEnvironment,
    database: Database,
    database_url: str,
    key_file: Path,
    tmp_path: Path,
) -> None:
    settings = Settings(
        environment="embedded",
        database_url=database_url,
        key_file=key_file,
        temporal_address=skipping.client.service_client.config.target_host,
        task_queue=f"loops-{tmp_path.name}",
    )
    worker = PerennialProcess("worker", settings, tmp_path)
    await worker.start()
    before = await reconciling.after(None, worker.pid)
    async with PerennialProcess("worker", settings, tmp_path) as other:
        worker.kill()
        await worker.wait()
        began = time.monotonic()
        after = await reconciling.after(before.since, other.pid)
        assert time.monotonic() - began < TAKEN_OVER_WITHIN
        assert await other.stop() == 0
    assert (after.watching_since, after.namespace_id) == (before.watching_since, before.namespace_id)


async def test_progress_in_another_namespace_counts_for_nothing(
    runs: Runs, customer: Customer, skipping: WorkflowEnvironment, database: Database, cipher: Cipher
) -> None:
    """Else a worker that was pointed at the wrong namespace would take all instances for lost at once."""
    lost = await runs.stored(customer.user_id)
    async with database.connection() as connection:
        await connection.execute("UPDATE instances SET run_id = instance_id")
    looks = Reconciler(database, cipher, skipping.client)
    long_ago = datetime.now(UTC) - LOST_AFTER
    elsewhere = ReconcileRequest(namespace_id="elsewhere", since=long_ago, watching_since=long_ago)
    first = await looks.advance(elsewhere)
    assert first.watching_since is not None
    assert first.watching_since > long_ago
    run = runs.at(lost.workflow_id, lost.instance_id)
    assert (await runs.context(run)).end_time is None
    await looks.advance(first.model_copy(update={"watching_since": long_ago}))
    assert (await runs.context(run)).reason == "history_lost"
