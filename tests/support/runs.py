"""Running lifecycle workflows in tests, and looking at what they left in Postgres."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from temporalio.client import WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from models.messages.execution import LifecycleInput, LifecycleOutcome, RecordedEvent
from models.messages.identity import initial_search_attributes, temporal_workflow_id
from privacy.sealing import Sealer
from runtime.database import Database
from store import data_keys, instances
from store.instances import NewInstance, StoredInstance


@dataclass
class Run:
    """One started instance."""

    instance_id: str
    workflow_id: str
    handle: WorkflowHandle[Any, LifecycleOutcome]


class Runs:
    """Starts instances the way the edge does, without the edge."""

    def __init__(
        self, environment: WorkflowEnvironment, database: Database, sealer: Sealer, task_queue: str
    ) -> None:
        self.environment = environment
        self.database = database
        self.sealer = sealer
        self.task_queue = task_queue

    async def start(
        self,
        user_id: str,
        workflow_id: str = "onboarding",
        *,
        max_attempts: int = 3,
        still: bool = False,
        stored: bool = True,
        parameters: Mapping[str, str] | None = None,
    ) -> Run:
        """Start an instance; ``still`` keeps its clock from skipping, ``stored=False`` leaves its row out."""
        instance_id = uuid.uuid4().hex
        new = NewInstance(instance_id, workflow_id, user_id, max_attempts, dict(parameters or {}), "test")
        if stored:
            async with self.database.transaction() as connection:
                key = await data_keys.require(connection, self.sealer, user_id)
                await instances.insert(connection, key, new)
        if still:
            with self.environment.with_time_skipping_disabled():
                handle = await self._start(new)
        else:
            handle = await self._start(new)
        return Run(instance_id, workflow_id, handle)

    async def _start(self, new: NewInstance) -> WorkflowHandle[Any, LifecycleOutcome]:
        return await self.environment.client.start_workflow(
            new.workflow_id,
            LifecycleInput(
                instance_id=new.instance_id,
                user_id=new.user_id,
                max_attempts=new.max_attempts,
                parameters=new.parameters,
            ),
            id=temporal_workflow_id(new.workflow_id, new.instance_id),
            task_queue=self.task_queue,
            result_type=LifecycleOutcome,
            search_attributes=initial_search_attributes(new.workflow_id, new.user_id),
        )

    async def context(self, run: Run) -> StoredInstance:
        """What is stored of the instance."""
        async with self.database.connection() as connection:
            found = await instances.find(connection, self.sealer, run.workflow_id, run.instance_id)
        assert found is not None
        return found

    async def until(self, run: Run, step: str, within: float = 20.0) -> StoredInstance:
        """The context once the instance has come to a step."""
        async with asyncio.timeout(within):
            while (found := await self.context(run)).current_step != step:
                await asyncio.sleep(0.02)
        return found

    async def until_run(self, run: Run, run_id: str, within: float = 20.0) -> StoredInstance:
        """The context once this run of the instance has recorded a wait."""
        async with asyncio.timeout(within):
            while (found := await self.context(run)).run_id != run_id or not found.current_step:
                await asyncio.sleep(0.02)
        return found

    async def tell(self, run: Run, event_type: str, event_id: str | None = None) -> None:
        """The fact that an event was recorded."""
        event = RecordedEvent(
            event_id=event_id or uuid.uuid4().hex, event_type=event_type, timestamp=datetime.now(UTC)
        )
        await run.handle.signal("event_recorded", event)
