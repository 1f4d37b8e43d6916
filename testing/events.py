"""Events and withdrawals of customers: ingest, projector and outbox handle them while the test waits."""

from __future__ import annotations

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.client import WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from activities.outbox import Outbox
from activities.projector import Follower, Found
from models.instances import StoredInstance
from models.rules.ingest import prepare
from models.rules.sharding import shard_of
from models.rules.triggers import WorkflowTrigger
from models.temporal.execution import LifecycleOutcome
from models.vocabulary import Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store import outbox
from store.consents import consents
from store.events import events
from store.events.partitions import KnownPartitions, month_of
from store.events.types import EventTypes
from store.outbox import triggered_instance_id
from testing.clocks import delay_until, started, starting_later
from workflows.catalog import Definition, triggers

_WITHIN = 60.0


class EventRejectedError(AssertionError):
    """The event was not stored: no consent, no such user, or properties that its type forbids."""


@dataclass
class Run:
    """One started instance.

    Example::

        outcome = await run.handle.result()
        assert outcome.reason == "renewed"
    """

    instance_id: str
    workflow_id: str
    handle: WorkflowHandle[Any, LifecycleOutcome]


class CustomerEvents(ABC):
    """Events of customers, which start instances and reach them."""

    environment: WorkflowEnvironment
    database: Database
    cipher: Cipher
    task_queue: str
    definitions: Mapping[str, Definition]

    @abstractmethod
    def at(self, workflow_id: str, instance_id: str) -> Run:
        """See :class:`testing.runs.Runs`."""

    @abstractmethod
    async def find(self, run: Run) -> StoredInstance | None:
        """See :class:`testing.runs.Runs`."""

    async def event(
        self,
        user_id: str,
        event_type: str,
        properties: Mapping[str, Any] | None = None,
        *,
        at: datetime | None = None,
        still: bool = False,
        clock: datetime | None = None,
    ) -> list[Run]:
        """Record an event of a customer; returns the instances that it has started.

        The event passes ingest, with its checks of consent and properties, then the projector and the outbox. On
        return Temporal has each start and each signal that follows from it. ``at`` is the time of the event, by
        default now; :meth:`time` gives that of an instance. ``still`` and ``clock`` are for the instances that it
        starts, as in :meth:`start`. Raises :class:`EventRejectedError`.

        Example::

            await runs.event(customer.user_id, "subscription.cancelled", at=await runs.time(run))
        """
        event_id = await record(self.database, self.cipher, user_id, event_type, properties or {}, at=at)
        definitions = self.definitions.values()
        await project(self.database, self.cipher, triggers(definitions), user_id)
        delay = delay_until(clock)
        with started(self.environment, still=still):
            await self.deliver(delay)
        ids = {each: triggered_instance_id(each, event_id) for each in self.definitions}
        runs = [self.at(each, instance_id) for each, instance_id in ids.items()]
        found = [run for run in runs if await self.find(run) is not None]
        if still and delay is not None:
            for run in found:
                await self.environment.fast_forward(run.handle, delay)
        return found

    async def trigger(
        self,
        user_id: str,
        workflow_id: str,
        event_type: str,
        properties: Mapping[str, Any] | None = None,
        *,
        still: bool = False,
        clock: datetime | None = None,
    ) -> Run:
        """Record an event that starts a workflow, as :meth:`event` does. It may start others too.

        Raises AssertionError if it doesn't: the trigger's ``where`` differs, the consent is missing, or an
        instance within ``once_per`` or with the same key exists.

        Example::

            run = await runs.trigger(
                customer.user_id, "renewal_reminder", "subscription.renewal_scheduled", {"plan": "yearly"}
            )
        """
        found = await self.event(user_id, event_type, properties, still=still, clock=clock)
        started = {run.workflow_id: run for run in found}
        assert workflow_id in started, f"{event_type} has not started {workflow_id}, but {[*started] or 'nothing'}"
        return started[workflow_id]

    async def withdraw(self, user_id: str, purpose: Purpose | str) -> None:
        """Withdraw a consent. Instances whose workflow has that purpose end as cancelled.

        Example::

            await runs.withdraw(customer.user_id, "marketing")
            assert (await runs.ended(run)).status == "cancelled"
        """
        async with self.database.transaction() as connection:
            await consents.withdraw(connection, user_id, Purpose(purpose), actor="test")
        await self.deliver()

    async def deliver(self, delay: timedelta | None = None) -> None:
        """Deliver the outbox to Temporal; ``delay`` is how far ahead the clocks of new instances start.

        Example::

            await customer.withdraw(Purpose.MARKETING)
            await runs.deliver()
        """
        client = starting_later(self.environment.client, delay)
        startables = {name: each.startable for name, each in self.definitions.items()}
        await deliver(
            self.database, Outbox(self.database, self.cipher, client, client, self.task_queue, startables)
        )


async def record(
    database: Database,
    cipher: Cipher,
    user_id: str,
    event_type: str,
    properties: Mapping[str, Any],
    *,
    at: datetime | None = None,
) -> str:
    """Store an event as ingest does; returns its id. Raises :class:`EventRejectedError`.

    Unlike ingest, it takes an event of any time, since an instance's virtual clock may be months ahead, and
    `lifecycle.stage_changed`.
    """
    event_id, timestamp = uuid.uuid4().hex, at or datetime.now(UTC)
    async with database.connection() as connection:
        types = await EventTypes().find(connection, {event_type})
        await KnownPartitions().ensure(connection, {month_of(timestamp)})
    prepared = prepare(
        event_id=event_id,
        user_id=user_id,
        event_type=event_type,
        timestamp=timestamp,
        session_id="test",
        historical=False,
        parts={"event_properties": dict(properties)},
        declared=types.get(event_type),
    )
    async with database.transaction() as connection:
        [outcome] = await events.record(connection, cipher, [prepared])
    if outcome.errors:
        raise EventRejectedError(", ".join(f"{each.pointer}: {each.code}" for each in outcome.errors))
    return event_id


async def project(database: Database, cipher: Cipher, triggers: Sequence[WorkflowTrigger], user_id: str) -> None:
    """Project the events of a user's shard, and write the outbox entries that they cause."""
    follower = Follower(database, cipher, triggers, shard_of(user_id))
    async with asyncio.timeout(_WITHIN):
        while (found := await follower.step()) is not Found.NOTHING:
            if found is None or found is Found.UNSETTLED:  # another transaction is open
                await asyncio.sleep(0.01)


async def deliver(database: Database, sender: Outbox) -> None:
    """Deliver all due entries of the outbox to Temporal."""
    delivering = True
    task = asyncio.create_task(sender.deliver_while(lambda: delivering))
    try:
        async with asyncio.timeout(_WITHIN):
            while await _is_due(database):
                await asyncio.sleep(0.01)
    finally:
        delivering = False
        await task


async def _is_due(database: Database) -> bool:
    async with database.connection() as connection:
        return bool(await outbox.due(connection, 1, []))
