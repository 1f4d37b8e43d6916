"""Activities on events: workflows record them and look for them.

An event of a step counts once: its id follows from (instance, step), and ids deduplicate. Argument, by the point
at which the worker dies:

1. before the transaction of ingest commits: nothing happened; the next attempt stores the event.
2. after it: the next attempt finds the id taken by the same event, and returns `duplicate`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

import asyncpg
from temporalio import activity
from temporalio.exceptions import ApplicationError

from models.rules.event_types import NAME, EventType
from models.rules.folding import WORKFLOW_SESSION
from models.rules.ingest import IngestResult, PreparedEvent, prepare
from models.temporal.execution import Emission, LastEvent, LastSeen, NewEvent, StepContext
from privacy.encryption import Cipher
from runtime.database import Database
from store.events import events, log
from store.events.partitions import KnownPartitions, month_of
from store.events.types import EventTypes

_EMITTED = uuid.UUID("7a1b0a55-9f0e-4d0f-8f0b-6f3f1f0a9c2e")


class Events:
    """Records events as ingest does, under the same consent."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher
        self._types = EventTypes()
        self._partitions = KnownPartitions()

    @activity.defn(name="events.emit")
    async def emit(self, event: NewEvent) -> Emission:
        """Record an event of the step's user, dated now.

        The status is `rejected` without the user's consent. An event that its type's schema rejects fails the
        step without a retry.
        """
        async with self._database.connection() as connection:
            types = await self._types.find(connection, {event.event_type})
            ready = _ready(event, types)
            await self._partitions.ensure(connection, {month_of(ready.timestamp)})
            try:
                async with connection.transaction():
                    [outcome] = await events.record(connection, self._cipher, [ready])
            except asyncpg.CheckViolationError:  # retention dropped the partition: the next attempt creates it
                self._partitions.forget()
                raise
            await log.notify(connection)
        reason = outcome.errors[0].code if outcome.errors else None
        return Emission(event_id=ready.event_id, status=outcome.status, reason=reason)

    @activity.defn(name="events.last_seen")
    async def last_seen(self, asked: LastSeen) -> LastEvent:
        """The time of the user's latest event of a type, without those that workflows recorded."""
        async with self._database.connection() as connection:
            return LastEvent(at=await events.last_seen(connection, asked.user_id, asked.event_type))


def _ready(event: NewEvent, types: Mapping[str, EventType]) -> PreparedEvent:
    """The event as ingest takes it; fails the step for good where it can't."""
    if NAME.fullmatch(event.event_type) is None:
        raise ApplicationError("an event type is category.action", type="InvalidEvent", non_retryable=True)
    context = event.step_context
    prepared = prepare(
        event_id=emitted_event_id(context),
        user_id=context.user_id,
        event_type=event.event_type,
        timestamp=datetime.now(UTC),
        session_id=f"{WORKFLOW_SESSION}{context.instance_id}",
        parts={"event_properties": event.properties} if event.properties else {},
        declared=types.get(event.event_type),
        historical=False,
    )
    if isinstance(prepared, IngestResult):
        errors = "; ".join(f"{error.pointer} {error.code}" for error in prepared.errors)
        raise ApplicationError(f"the event isn't valid: {errors}", type="InvalidEvent", non_retryable=True)
    return prepared


def emitted_event_id(context: StepContext) -> str:
    """The id of the event that a step records."""
    return uuid.uuid5(_EMITTED, f"{context.instance_id}/{context.step}").hex
