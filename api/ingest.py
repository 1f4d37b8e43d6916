"""Ingest of one API process: from checked events to events on disk, one by one or in batches.

Single events that arrive while a transaction is under way go together into the next one, so that 64 callers
cost one commit and not 64. Each is answered only when that has been made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg

from api.notifier import Notifier
from models.audit import AuditEntry
from models.errors import PartitionDetachingError
from models.rules.event_types import EventType
from models.rules.ingest import NewEvent, Outcome, Window, prepare
from models.rules.retention import EVENTS
from models.schemas.events import EventInput
from privacy.encryption import Cipher
from runtime.database import UNREACHABLE, Database
from store.audit import entries
from store.connection import Connection
from store.events import events
from store.events.partitions import KnownPartitions, month_of
from store.events.types import EventTypes
from store.retention import periods

_GATHER_SECONDS = 0.001
_MAX_GROUP = 500
_YIELD_EVERY = 250
_ATTEMPTS = 2
_MONTH_GONE = (asyncpg.CheckViolationError, PartitionDetachingError)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A single event, and who waits for what becomes of it."""

    event: EventInput
    account: Callable[[Outcome], AuditEntry]
    outcome: asyncio.Future[Outcome]


class Ingest:
    """Takes events. One for each process; it may be used from the start, and is closed at the end."""

    def __init__(self, database: Database, cipher: Cipher, notifier: Notifier) -> None:
        self._database = database
        self._cipher = cipher
        self._notifier = notifier
        self._types = EventTypes()
        self._partitions = KnownPartitions()
        self._waiting: list[_Waiting] = []
        self._flusher: asyncio.Task[None] | None = None

    async def take(
        self,
        given: Sequence[EventInput],
        account: Callable[[Sequence[Outcome]], Sequence[AuditEntry]],
        *,
        historical: bool = False,
    ) -> list[Outcome]:
        """Store a batch in one transaction; what became of each event, in their order.

        ``account`` gives the rows of the audit log for that; they are written in the same transaction.

        What it says is on disk. Raises what an unreachable Postgres raises: then nothing may have been stored,
        or all; to send it again is safe.
        """
        async with self._database.connection() as connection:
            types = await self._types.find(connection, {event.event_type for event in given})
            for attempt in range(_ATTEMPTS):
                window = Window.of(datetime.now(UTC), await periods.days_of(connection, EVENTS))
                prepared = await _prepare(given, types, window, historical=historical)
                try:
                    outcomes = await self._record(connection, prepared, account)
                    break
                except _MONTH_GONE:  # retention has taken it, under a period that may be a new one: judge again
                    self._partitions.forget()
                    if attempt + 1 == _ATTEMPTS:
                        raise PartitionDetachingError from None
        self._notifier.wake()
        return outcomes

    async def _record(
        self,
        connection: Connection,
        prepared: Sequence[NewEvent | Outcome],
        account: Callable[[Sequence[Outcome]], Sequence[AuditEntry]],
    ) -> list[Outcome]:
        months = {month_of(event.timestamp) for event in prepared if isinstance(event, NewEvent)}
        await self._partitions.ensure(connection, months)
        async with connection.transaction():
            outcomes = await events.record(connection, self._cipher, prepared)
            await entries.append(connection, account(outcomes))
            return outcomes

    async def take_one(self, event: EventInput, account: Callable[[Outcome], AuditEntry]) -> Outcome:
        """Store an event, together with others that arrive about now; what became of it, once it is on disk."""
        waiting = _Waiting(event, account, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return await waiting.outcome

    async def _flush(self) -> None:
        """Store what waits, group by group, until nothing does."""
        try:
            while self._waiting:
                await asyncio.sleep(_GATHER_SECONDS)
                group, self._waiting = self._waiting[:_MAX_GROUP], self._waiting[_MAX_GROUP:]
                await self._settle(group)
        finally:
            self._flusher = None
            for waiting in self._waiting:  # only where this task was cancelled
                waiting.outcome.cancel()
            self._waiting = []

    async def _settle(self, group: Sequence[_Waiting]) -> None:
        try:
            outcomes = await self.take(
                [waiting.event for waiting in group],
                lambda outcomes: [
                    waiting.account(outcome) for waiting, outcome in zip(group, outcomes, strict=True)
                ],
            )
        except asyncio.CancelledError:
            for waiting in group:
                waiting.outcome.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            await self._settle_apart(group, error)
            return
        for waiting, outcome in zip(group, outcomes, strict=True):
            if not waiting.outcome.done():  # its caller may have gone
                waiting.outcome.set_result(outcome)

    async def _settle_apart(self, group: Sequence[_Waiting], error: Exception) -> None:
        """One event's failure is nobody else's: unless Postgres is away, each is tried alone."""
        if len(group) > 1 and not isinstance(error, UNREACHABLE):
            for waiting in group:
                await self._settle([waiting])
            return
        for waiting in group:
            if not waiting.outcome.done():
                waiting.outcome.set_exception(error)

    async def close(self) -> None:
        """Store what still waits."""
        if self._flusher is not None:
            with suppress(asyncio.CancelledError):
                await self._flusher


async def _prepare(
    given: Sequence[EventInput], types: Mapping[str, EventType], window: Window, *, historical: bool
) -> list[NewEvent | Outcome]:
    """Each event ready to be stored, or why it isn't taken."""
    prepared = []
    for index, event in enumerate(given):
        prepared.append(_prepare_one(event, types.get(event.event_type), window, historical=historical))
        if index % _YIELD_EVERY == _YIELD_EVERY - 1:
            await asyncio.sleep(0)
    return prepared


def _prepare_one(
    event: EventInput, declared: EventType | None, window: Window, *, historical: bool
) -> NewEvent | Outcome:
    refusal = window.refusal(event.timestamp)
    if refusal is not None:
        return refusal
    return prepare(
        event_id=event.event_id,
        user_id=event.user_id,
        event_type=event.event_type,
        timestamp=event.timestamp,
        session_id=event.session_id,
        historical=historical,
        parts=event.parts,
        declared=declared,
    )
