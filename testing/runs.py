"""Runs lifecycle workflows in tests, and reads what they left in Postgres."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle, WorkflowHistory
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer

from models.instances import NewInstance, StoredInstance
from models.rules.folding import LogEvent
from models.rules.parameters import parameters_from
from models.rules.triggers import resolved
from models.temporal.execution import LifecycleOutcome, RecordedEvent
from models.temporal.identity import temporal_workflow_id
from models.temporal.starting import named_exits, start_input, start_options
from privacy.encryption import Cipher
from runtime.database import Database
from store.instances import instances, transitions, waits
from store.users import data_keys
from workflows.base import LifecycleWorkflow
from workflows.catalog import catalog
from workflows.sandbox import workflow_runner


@dataclass
class Run:
    """One started instance."""

    instance_id: str
    workflow_id: str
    handle: WorkflowHandle[Any, LifecycleOutcome]


class Runs:
    """Starts instances as the API does, without the API."""

    def __init__(
        self,
        environment: WorkflowEnvironment,
        database: Database,
        cipher: Cipher,
        task_queue: str,
        lifecycles: Sequence[type[LifecycleWorkflow[Any]]] = (),
    ) -> None:
        self.environment = environment
        self.database = database
        self.cipher = cipher
        self.task_queue = task_queue
        own = {each.definition.workflow_id: each.definition for each in lifecycles}
        self.definitions = {**catalog(), **own}

    async def start(
        self,
        user_id: str,
        workflow_id: str = "onboarding",
        *,
        max_attempts: int = 3,
        still: bool = False,
        stored: bool = True,
        parameters: Mapping[str, Any] | None = None,
    ) -> Run:
        """Start an instance; ``still`` keeps its clock from skipping, ``stored=False`` leaves its row out."""
        new = self._new(user_id, workflow_id, max_attempts, dict(parameters or {}))
        if stored:
            await self._store(new)
        return await self.begin(new, still=still)

    async def stored(
        self, user_id: str, workflow_id: str = "onboarding", *, trigger: LogEvent | None = None
    ) -> NewInstance:
        """An instance that is stored, by its trigger if one is given, and not started yet."""
        if trigger is None:
            new = self._new(user_id, workflow_id, 3, {})
        else:
            model = self.definitions[workflow_id].parameters
            new = self._new(user_id, workflow_id, 3, parameters_from(model, trigger.properties), trigger)
        await self._store(new, trigger)
        return new

    async def begin(self, new: NewInstance, *, still: bool = False) -> Run:
        """Start a stored instance in Temporal."""
        if still:
            with self.environment.with_time_skipping_disabled():
                handle = await self._start(new)
        else:
            handle = await self._start(new)
        return Run(new.instance_id, new.workflow_id, handle)

    def at(self, workflow_id: str, instance_id: str) -> Run:
        """An instance that was started elsewhere."""
        handle = self.environment.client.get_workflow_handle(
            temporal_workflow_id(workflow_id, instance_id), result_type=LifecycleOutcome
        )
        return Run(instance_id, workflow_id, handle)

    def _new(
        self,
        user_id: str,
        workflow_id: str,
        max_attempts: int,
        parameters: dict[str, Any],
        trigger: LogEvent | None = None,
    ) -> NewInstance:
        exits = resolved(self.definitions[workflow_id].exits, parameters)
        new = NewInstance(uuid.uuid4().hex, workflow_id, user_id, max_attempts, parameters, "test", exits=exits)
        if trigger is None:
            return new
        event = RecordedEvent(
            event_id=trigger.event_id, event_type=trigger.event_type, timestamp=trigger.timestamp
        )
        return replace(new, trigger=event)

    async def _store(self, new: NewInstance, trigger: LogEvent | None = None) -> None:
        async with self.database.transaction() as connection:
            key = await data_keys.require(connection, self.cipher, new.user_id)
            await transitions.insert(connection, key, new)
            if trigger is not None:
                await transitions.record_trigger(connection, new.instance_id, trigger.event_id, trigger.timestamp)
            await waits.register(connection, key, new.instance_id, named_exits(new.exits))

    async def _start(self, new: NewInstance) -> WorkflowHandle[Any, LifecycleOutcome]:
        return await self.environment.client.start_workflow(
            new.workflow_id,
            start_input(new),
            task_queue=self.task_queue,
            **start_options(new, "a test"),
        )

    async def context(self, run: Run) -> StoredInstance:
        found = await self._find(run)
        assert found is not None
        return found

    async def _find(self, run: Run) -> StoredInstance | None:
        async with self.database.connection() as connection:
            return await instances.find(connection, self.cipher, run.instance_id)

    async def until(self, run: Run, step: str, within: float = 60.0) -> StoredInstance:
        """The context once the instance is at a step that it doesn't leave by itself: start it with ``still``."""
        async with asyncio.timeout(within):
            while (found := await self._find(run)) is None or found.current_step != step:
                await asyncio.sleep(0.02)
        return found

    async def until_tried(self, run: Run, step: str, times: int, within: float = 60.0) -> None:
        """Wait until so many attempts at a step have ended."""
        async with asyncio.timeout(within):
            while (
                len([each for each in (await self.context(run)).attempts if each.step == step and each.ended_at])
                < times
            ):
                await asyncio.sleep(0.05)

    async def until_handled(self, run: Run, within: float = 60.0) -> None:
        """Wait until a workflow task has handled the last signal."""
        async with asyncio.timeout(within):
            while True:
                types = [event.event_type for event in reversed((await run.handle.fetch_history()).events)]
                handled = types.index(EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
                if handled < types.index(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED):
                    return
                await asyncio.sleep(0.05)

    async def replay(self, run: Run) -> None:
        """Replay the history, as a worker without a cache does; raises where the code takes another course."""
        await self.replay_history(run.workflow_id, await run.handle.fetch_history())

    async def replay_history(self, workflow_id: str, history: WorkflowHistory) -> None:
        """As :meth:`replay`, with any history of a workflow of the catalogue."""
        replayer = Replayer(
            workflows=[self.definitions[workflow_id].implementation],
            workflow_runner=workflow_runner(),
            data_converter=self.environment.client.data_converter,
            namespace=self.environment.client.namespace,
        )
        await replayer.replay_workflow(history)

    async def until_run(self, run: Run, run_id: str, within: float = 60.0) -> StoredInstance:
        """The context once this run of the instance has recorded a step."""
        async with asyncio.timeout(within):
            while (found := await self.context(run)).run_id != run_id or not found.current_step:
                await asyncio.sleep(0.02)
        return found

    async def notify(
        self,
        run: Run,
        event_type: str,
        event_id: str | None = None,
        *,
        at: datetime | None = None,
        step: str | None = None,
    ) -> None:
        """Signal that an event was recorded, for one wait or for any; it happened ``at`` that time, or now."""
        event = RecordedEvent(
            event_id=event_id or uuid.uuid4().hex,
            event_type=event_type,
            timestamp=at or datetime.now(UTC),
            step=step,
        )
        await run.handle.signal("event_recorded", event)
