"""Workers for the journeys of these tests, and an outbox that delivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.instances import Instances
from activities.messages import Messages
from activities.outbox import Outbox
from activities.recording import StepRecorder
from delivery.templates import TEMPLATES
from models.vocabulary import DeadLetterStatus, InstanceStatus
from privacy.encryption import Cipher
from runtime.database import Database
from store.instances import dead_letters, replays
from store.instances.dead_letters import Filter, StoredDeadLetter
from testing.people import Customer
from testing.runs import Run, Runs
from tests.dead_letters.journeys import CatchesFailures, Effects, Fixed, InARow, Patient, SideBySide, WithAWait
from worker import startables
from workflows.sandbox import workflow_runner

JOURNEYS = (InARow, SideBySide, WithAWait, CatchesFailures, Patient, Fixed)


@dataclass
class Stage:
    """Starts journeys, and has the effects of their steps."""

    runs: Runs
    effects: Effects

    async def dead_letter(self, run: Run, status: DeadLetterStatus = DeadLetterStatus.OPEN) -> StoredDeadLetter:
        """The instance's one dead letter, once it has that status."""
        async with asyncio.timeout(60):
            while True:
                async with self.runs.database.connection() as connection:
                    wanted = Filter(instance_id=run.instance_id)
                    found = await dead_letters.page(connection, self.runs.cipher, wanted, before=None, limit=9)
                assert len(found) <= 1
                if found and found[0].status is status:
                    return found[0]
                await asyncio.sleep(0.02)

    async def failed(self, customer: Customer, workflow_id: str, max_attempts: int = 1, **parameters: Any) -> Run:
        """Start an instance that fails."""
        run = await self.runs.start(
            customer.user_id, workflow_id, max_attempts=max_attempts, still=True, parameters=parameters
        )
        with pytest.raises(WorkflowFailureError):
            await run.handle.result()
        return run

    async def ended(self, run: Run) -> InstanceStatus:
        """The status of the instance, once it has ended."""
        async with asyncio.timeout(60):
            while (context := await self.runs.context(run)).end_time is None:
                await asyncio.sleep(0.02)
        return context.status

    async def replay(self, dead_letter: StoredDeadLetter) -> None:
        async with self.runs.database.transaction() as connection:
            await replays.request(connection, self.runs.cipher, dead_letter.dead_letter_id)


@asynccontextmanager
async def working(runs: Runs, effects: Effects, workflows: Sequence[type[Any]]) -> AsyncIterator[None]:
    """A worker for some journeys."""
    recorder = Instances(runs.database, runs.cipher)
    messages = Messages(
        runs.database, runs.cipher, {}, {}, resend_unconfirmed=False, cap=None, templates=TEMPLATES
    )
    async with Worker(
        runs.environment.client,
        task_queue=runs.task_queue,
        workflows=workflows,
        activities=[recorder.record, recorder.backs_off, effects.act, messages.withdraw],
        workflow_runner=workflow_runner(),
        interceptors=[StepRecorder(runs.database, runs.cipher)],
    ):
        yield


@pytest.fixture
async def stage(
    skipping: WorkflowEnvironment, database: Database, cipher: Cipher, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    queue = tmp_path_factory.mktemp("dead-letters").name
    outbox = Outbox(database, cipher, skipping.client, skipping.client, queue, startables())
    task = asyncio.create_task(outbox.deliver_while(lambda: True))
    with skipping.with_time_skipping_disabled():
        yield Stage(Runs(skipping, database, cipher, queue, JOURNEYS), Effects())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def served(stage: Stage) -> AsyncIterator[Stage]:
    """The stage with a worker for the journeys whose own code doesn't raise."""
    async with working(stage.runs, stage.effects, [InARow, SideBySide, WithAWait, CatchesFailures, Patient]):
        yield stage
