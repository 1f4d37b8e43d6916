"""Workers with journeys of these tests' own, and an outbox that is carried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.instances import Instances
from activities.messages import Messages
from activities.outbox import Outbox
from activities.recording import StepRecorder
from activities.templates import TEMPLATES
from models.vocabulary import DeadLetterStatus
from privacy.sealing import Sealer
from runtime.database import Database
from store import dead_letters, replays
from store.dead_letters import Filter, StoredDeadLetter
from tests.dead_letters.journeys import Acts, InARow, Mended, SideBySide, WithAWait
from tests.support.runs import Run, Runs
from worker import startables, workflow_runner
from workflows.interceptors import OutcomeInterceptor


@dataclass
class Stage:
    """Where journeys are played: runs, and what their acts have done."""

    runs: Runs
    acts: Acts

    async def letter(self, run: Run, status: DeadLetterStatus = DeadLetterStatus.OPEN) -> StoredDeadLetter:
        """The instance's one letter, once it has that status."""
        async with asyncio.timeout(20):
            while True:
                async with self.runs.database.connection() as connection:
                    wanted = Filter(instance_id=run.instance_id)
                    found = await dead_letters.page(connection, self.runs.sealer, wanted, before=None, limit=9)
                assert len(found) <= 1
                if found and found[0].status is status:
                    return found[0]
                await asyncio.sleep(0.02)

    async def replay(self, letter: StoredDeadLetter) -> None:
        async with self.runs.database.transaction() as connection:
            await replays.request(connection, self.runs.sealer, letter.dead_letter_id)


@asynccontextmanager
async def working(runs: Runs, acts: Acts, workflows: Sequence[type[Any]]) -> AsyncIterator[None]:
    """A worker for some journeys."""
    messages = Messages(
        runs.database, runs.sealer, {}, {}, resend_unconfirmed=False, cap=None, templates=TEMPLATES
    )
    async with Worker(
        runs.environment.client,
        task_queue=runs.task_queue,
        workflows=workflows,
        activities=[Instances(runs.database, runs.sealer).record, acts.act, messages.withdraw],
        workflow_runner=workflow_runner(),
        interceptors=[OutcomeInterceptor(), StepRecorder(runs.database, runs.sealer)],
    ):
        yield


@pytest.fixture
async def stage(
    skipping: WorkflowEnvironment, database: Database, sealer: Sealer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    queue = tmp_path_factory.mktemp("dead-letters").name
    carrier = Outbox(database, sealer, skipping.client, queue, startables())
    task = asyncio.create_task(carrier.carry_on(lambda: True))
    with skipping.with_time_skipping_disabled():
        yield Stage(Runs(skipping, database, sealer, queue, [InARow, SideBySide, WithAWait, Mended]), Acts())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def played(stage: Stage) -> AsyncIterator[Stage]:
    """The stage with a worker for the journeys that have no bug."""
    async with working(stage.runs, stage.acts, [InARow, SideBySide, WithAWait]):
        yield stage
