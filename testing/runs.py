"""Starts lifecycle workflows in tests, and reads what they left in Postgres."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowHistory,
)
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer

from models.instances import NewInstance, StoredInstance
from models.rules.folding import LogEvent
from models.rules.parameters import parameters_from
from models.rules.triggers import resolved
from models.temporal.execution import LifecycleOutcome, RecordedEvent
from models.temporal.identity import temporal_workflow_id
from models.temporal.starting import named_exits, start_input, start_options
from models.vocabulary import DeadLetterStatus
from privacy.encryption import Cipher
from runtime.database import Database
from store.instances import dead_letters, instances, replays, transitions, waits
from store.instances.dead_letters import Filter
from store.users import data_keys
from testing.clocks import delay_until, started, starting_later
from testing.events import CustomerEvents, Run
from workflows.base import LifecycleWorkflow
from workflows.catalog import catalog
from workflows.sandbox import workflow_runner

__all__ = ["Run", "Runs"]


class Runs(CustomerEvents):
    """Starts instances of workflows, moves their clocks, and shows what they did.

    The fixture ``runs`` has a worker for all workflows of the catalogue. Each instance has a virtual clock of its
    own. It skips every wait in which nothing else happens: thirty days take no time. ``still=True`` stops it, so
    that the test decides when time passes.

    Example::

        async def test_a_cancellation_ends_it(runs: Runs, customer: Customer) -> None:
            run = await runs.start(customer.user_id, "renewal_reminder", still=True)
            await runs.until(run, "wait_before_reminder")
            await runs.event(customer.user_id, "subscription.cancelled")
            assert (await runs.ended(run)).reason == "cancelled_subscription"
    """

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
        clock: datetime | None = None,
    ) -> Run:
        """Start an instance as a request does, without a check of consent.

        ``still`` keeps its virtual clock from skipping. ``clock`` is the time at which that clock starts: now, or
        later. ``stored=False`` leaves its row in Postgres out.

        Example::

            run = await runs.start(
                customer.user_id,
                "renewal_reminder",
                parameters={"renews_after": "P10D"},
                clock=datetime(2030, 3, 30, 8, tzinfo=UTC),
            )
        """
        new = self._new(user_id, workflow_id, max_attempts, dict(parameters or {}))
        if stored:
            await self._store(new)
        return await self.begin(new, still=still, clock=clock)

    async def ended(self, run: Run) -> StoredInstance:
        """The instance once it has ended: completed, failed or cancelled.

        Example::

            instance = await runs.ended(run)
            assert (instance.status, instance.reason) == ("completed", "renewed")
        """
        with contextlib.suppress(WorkflowFailureError):
            await self.at(run.workflow_id, run.instance_id).handle.result()
        return await self.context(run)

    async def time(self, run: Run) -> datetime:
        """The time of the instance's virtual clock.

        Example::

            assert (await runs.time(run)).hour == 10
        """
        return await self.environment.get_current_time(run.handle)

    async def advance(self, run: Run, by: timedelta) -> None:
        """Move the virtual clock of an instance that was started with ``still``. Waits that become due end.

        Example::

            await runs.advance(run, timedelta(days=3))
            await runs.until(run, "wait_for_renewal")
        """
        await self.environment.fast_forward(run.handle, by)

    async def replay_dead_letter(self, run: Run) -> Run:
        """Replay the open dead letter of a failed instance; returns the run that continues at the failed step.

        Raises AssertionError if it has no open dead letter.

        Example::

            mail.refuse("550 no such mailbox")
            run = await runs.start(customer.user_id, "renewal_reminder")
            assert (await runs.ended(run)).status == "failed"
            mail.accept()
            run = await runs.replay_dead_letter(run)
            assert (await runs.ended(run)).reason == "renewed"
        """
        wanted = Filter(instance_id=run.instance_id, status=DeadLetterStatus.OPEN)
        async with self.database.transaction() as connection:
            found = await dead_letters.page(connection, self.cipher, wanted, before=None, limit=1)
            assert found, "the instance has no open dead letter"
            await replays.request(connection, self.cipher, found[0].dead_letter_id)
        await self.deliver()
        return self.at(run.workflow_id, run.instance_id)

    async def stored(
        self, user_id: str, workflow_id: str = "onboarding", *, trigger: LogEvent | None = None
    ) -> NewInstance:
        """An instance that is stored, by its trigger if one is given, and not started yet.

        Example::

            new = await runs.stored(customer.user_id, "post_purchase")
            run = await runs.begin(new)
        """
        if trigger is None:
            new = self._new(user_id, workflow_id, 3, {})
        else:
            model = self.definitions[workflow_id].parameters
            new = self._new(user_id, workflow_id, 3, parameters_from(model, trigger.properties), trigger)
        await self._store(new, trigger)
        return new

    async def begin(self, new: NewInstance, *, still: bool = False, clock: datetime | None = None) -> Run:
        """Start a stored instance in Temporal.

        Example::

            run = await runs.begin(await runs.stored(customer.user_id, "post_purchase"))
        """
        delay = delay_until(clock)
        with started(self.environment, still=still):
            handle = await self._start(new, starting_later(self.environment.client, delay))
        if still and delay is not None:
            await self.environment.fast_forward(handle, delay)
        return Run(new.instance_id, new.workflow_id, handle)

    def at(self, workflow_id: str, instance_id: str) -> Run:
        """An instance that was started elsewhere, such as through the API.

        Example::

            run = runs.at("renewal_reminder", answer.json()["instance_id"])
        """
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
        definition = self.definitions[workflow_id]
        exits = resolved(definition.exits, parameters)
        new = NewInstance(uuid.uuid4().hex, workflow_id, user_id, max_attempts, parameters, "test", exits=exits)
        new = replace(new, purpose=definition.purpose)
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

    async def _start(self, new: NewInstance, client: Client) -> WorkflowHandle[Any, LifecycleOutcome]:
        return await client.start_workflow(
            new.workflow_id,
            start_input(new),
            task_queue=self.task_queue,
            **start_options(new, "a test"),
        )

    async def context(self, run: Run) -> StoredInstance:
        """The instance as the API shows it: ``status``, ``current_step``, ``variables``, ``results``, ``error``.

        Example::

            instance = await runs.context(run)
            assert instance.results["renewal_ahead"]["status"] == "sent"
        """
        found = await self.find(run)
        assert found is not None
        return found

    async def find(self, run: Run) -> StoredInstance | None:
        """As :meth:`context`; None without the instance.

        Example::

            assert await runs.find(run) is None
        """
        async with self.database.connection() as connection:
            return await instances.find(connection, self.cipher, run.instance_id)

    async def until(self, run: Run, step: str, within: float = 60.0) -> StoredInstance:
        """The context once the instance is at a step that it doesn't leave by itself: start it with ``still``.

        Example::

            await runs.until(run, "wait_before_reminder")
        """
        async with asyncio.timeout(within):
            while (found := await self.find(run)) is None or found.current_step != step:
                await asyncio.sleep(0.02)
        return found

    async def until_tried(self, run: Run, step: str, times: int, within: float = 60.0) -> None:
        """Wait until so many attempts at a step have ended.

        Example::

            await runs.until_tried(run, "send_welcome", 2)
        """
        async with asyncio.timeout(within):
            while (
                len([each for each in (await self.context(run)).attempts if each.step == step and each.ended_at])
                < times
            ):
                await asyncio.sleep(0.05)

    async def until_handled(self, run: Run, within: float = 60.0) -> None:
        """Wait until a workflow task has handled the last signal.

        Example::

            await runs.notify(run, "subscription.cancelled")
            await runs.until_handled(run)
        """
        async with asyncio.timeout(within):
            while True:
                types = [event.event_type for event in reversed((await run.handle.fetch_history()).events)]
                handled = types.index(EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
                if handled < types.index(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED):
                    return
                await asyncio.sleep(0.05)

    async def replay(self, run: Run) -> None:
        """Replay the history, as a worker without a cache does; raises where the code takes another course.

        Example::

            await runs.replay(run)
        """
        await self.replay_history(run.workflow_id, await run.handle.fetch_history())

    async def replay_history(self, workflow_id: str, history: WorkflowHistory) -> None:
        """As :meth:`replay`, with any history of a workflow of the catalogue.

        Example::

            await runs.replay_history("renewal_reminder", await run.handle.fetch_history())
        """
        replayer = Replayer(
            workflows=[self.definitions[workflow_id].implementation],
            workflow_runner=workflow_runner(),
            data_converter=self.environment.client.data_converter,
            namespace=self.environment.client.namespace,
        )
        await replayer.replay_workflow(history)

    async def until_run(self, run: Run, run_id: str, within: float = 60.0) -> StoredInstance:
        """The context once this run of the instance has recorded a step.

        Example::

            again = await runs.until_run(run, (await run.handle.describe()).run_id)
        """
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
        """Signal an event that Postgres doesn't have, for one wait or for any; its time is ``at``, or now.

        :meth:`event` records one, and matches its properties.

        Example::

            await runs.notify(run, "subscription.cancelled", "event-7")
        """
        event = RecordedEvent(
            event_id=event_id or uuid.uuid4().hex,
            event_type=event_type,
            timestamp=at or datetime.now(UTC),
            step=step,
        )
        await run.handle.signal("event_recorded", event)
