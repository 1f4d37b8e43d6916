"""Activities that record events for workflows, and find recorded ones.

A step's event counts once: its id is computed from (instance, step), and ingest drops repeated ids. If the worker
dies:

1. before the transaction of ingest commits: nothing happened; the next attempt stores the event.
2. after that commit: the next attempt finds the same event under the id, and returns `duplicate`.
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
from models.rules.stages import STAGE_CHANGED
from models.temporal.execution import (
    Emission,
    EventProperties,
    EventQuestion,
    LastEvent,
    LastSeen,
    NewEvent,
    StepContext,
)
from privacy.encryption import Cipher
from runtime.database import Database
from store.events import events, log
from store.events.partitions import KnownPartitions, month_of
from store.events.types import EventTypes
from store.users import data_keys

_EMITTED = uuid.UUID("7a1b0a55-9f0e-4d0f-8f0b-6f3f1f0a9c2e")


class Events:
    """Records events under the same consent as ingest."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher
        self._types = EventTypes()
        self._partitions = KnownPartitions()

    @activity.defn(name="events.emit")
    async def emit(self, event: NewEvent) -> Emission:
        """Record an event of the step's user, dated now.

        The status is `rejected` without the user's consent. If the type's schema rejects the event, the step fails
        without a retry.
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
            # Outside the transaction: with a NOTIFY, Postgres would commit transactions one after the other.
            await log.notify(connection)
        reason = outcome.errors[0].code if outcome.errors else None
        return Emission(event_id=ready.event_id, status=outcome.status, reason=reason)

    @activity.defn(name="events.last_seen")
    async def last_seen(self, asked: LastSeen) -> LastEvent:
        """The time of the user's latest event of a type. Events that workflows recorded don't count."""
        async with self._database.connection() as connection:
            return LastEvent(at=await events.last_seen(connection, asked.user_id, asked.event_type))

    @activity.defn(name="events.properties")
    async def properties(self, asked: EventQuestion) -> EventProperties:
        """The properties of an event of the user; empty without any, or if it is no longer stored or readable."""
        async with self._database.connection() as connection:
            key = (await data_keys.find(connection, self._cipher, [asked.user_id])).get(asked.user_id)
            held = await events.properties(connection, key, asked.event_id, asked.timestamp) if key else {}
        return EventProperties(properties=dict(held))


def _ready(event: NewEvent, types: Mapping[str, EventType]) -> PreparedEvent:
    """The event, checked as ingest does. An invalid event fails the step without a retry."""
    if event.event_type == STAGE_CHANGED:
        raise ApplicationError("use set_stage, which records this event", type="InvalidEvent", non_retryable=True)
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
    """The same id for every attempt at a step."""
    return uuid.uuid5(_EMITTED, f"{context.instance_id}/{context.step}").hex
