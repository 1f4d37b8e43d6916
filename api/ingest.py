"""Stores validated events; each API process has one :class:`Ingest`.

Single events that arrive during a transaction share the next one: 64 callers cost one commit instead of 64. The
API answers each caller after that commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import asyncpg

from api.audit import Audit, audited_transaction
from models.audit import AuditOutcome
from models.errors import PartitionDetachingError
from models.rules.event_types import EventType
from models.rules.ingest import IngestResult, PreparedEvent, Window, prepare
from models.rules.retention import EVENTS
from models.schemas.events import EventInput
from privacy.encryption import Cipher
from runtime.database import UNREACHABLE, Database
from store.events import events, log
from store.events.partitions import KnownPartitions, month_of
from store.events.types import EventTypes
from store.pacing import Pace
from store.retention import periods

_GATHER_SECONDS = 0.001
_QUIET_SECONDS = 0.01
_MAX_GROUP = 500
_ATTEMPTS = 2
_PARTITION_GONE = (asyncpg.CheckViolationError, PartitionDetachingError)


@dataclass
class Submission:
    """The items of one request, and the outcome of each."""

    audit: Audit
    items: Sequence[EventInput | IngestResult]
    """An item that isn't a valid event is its own rejection."""
    historical: bool = False
    outcomes: Sequence[IngestResult] = ()
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0

    def settle(self, outcomes: Sequence[IngestResult]) -> None:
        """Set the outcomes, and note the audit row: the users whose events are stored, and the counts."""
        self.outcomes = outcomes
        statuses = [outcome.status for outcome in outcomes]
        self.accepted, self.duplicates = statuses.count("accepted"), statuses.count("duplicate")
        self.rejected = len(statuses) - self.accepted - self.duplicates
        self.audit.note(
            subjects={
                item.user_id
                for item, status in zip(self.items, statuses, strict=True)
                if status != "rejected" and isinstance(item, EventInput)
            },
            details={
                "events": len(statuses),
                "accepted": self.accepted,
                "duplicates": self.duplicates,
                "rejected": self.rejected,
            },
        )


class SingleEvent(Submission):
    """One event, which shares a transaction with others."""

    def __init__(self, audit: Audit, event: EventInput) -> None:
        super().__init__(audit, [event])
        self.user_id = event.user_id
        self.stored: asyncio.Future[IngestResult] = asyncio.get_running_loop().create_future()
        """Gets the outcome after the commit."""

    def settle(self, outcomes: Sequence[IngestResult]) -> None:
        """Set the outcome, and note the audit row: the user, and the status or the code of the rejection."""
        self.outcomes = outcomes
        [outcome] = outcomes
        if outcome.errors:
            code = outcome.errors[0].code
            self.audit.note(self.user_id, outcome=AuditOutcome.REFUSED, details={"code": code})
        else:
            self.audit.note(self.user_id, details={"status": outcome.status})


class Ingest:
    """Stores events; one for each process. Closing it stores the events that still wait."""

    def __init__(self, database: Database, cipher: Cipher, notifier: Notifier) -> None:
        self._database = database
        self._cipher = cipher
        self._notifier = notifier
        self._types = EventTypes()
        self._partitions = KnownPartitions()
        self._waiting: list[SingleEvent] = []
        self._flusher: asyncio.Task[None] | None = None

    async def store(self, submissions: Sequence[Submission]) -> None:
        """Store the events of some requests and their audit rows in one transaction, and set the outcomes.

        On return everything is on disk. Raises :class:`DatabaseUnreachableError`: then all events were stored or
        none, and sending them again is safe.
        """
        async with self._database.connection() as connection:
            valid = (item for each in submissions for item in each.items if isinstance(item, EventInput))
            types = await self._types.find(connection, {event.event_type for event in valid})
            for attempt in range(_ATTEMPTS):
                window = Window.of(datetime.now(UTC), await periods.days_of(connection, EVENTS))
                prepared = await _prepare(submissions, types, window)
                months = {month_of(event.timestamp) for event in prepared if isinstance(event, PreparedEvent)}
                try:
                    await self._partitions.ensure(connection, months)
                    async with audited_transaction(connection, [each.audit for each in submissions]):
                        outcomes = iter(await events.record(connection, self._cipher, prepared))
                        for submission in submissions:
                            submission.settle(list(islice(outcomes, len(submission.items))))
                    break
                except _PARTITION_GONE:
                    # Retention has detached a partition. The period may have changed, so the window is read again.
                    self._partitions.forget()
                    if attempt + 1 == _ATTEMPTS:
                        raise PartitionDetachingError from None
        self._notifier.wake()

    async def store_one(self, event: EventInput, audit: Audit) -> IngestResult:
        """Store an event, together with others that arrive within a millisecond; returns after the commit."""
        single = SingleEvent(audit, event)
        self._waiting.append(single)
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return await single.stored

    async def _flush(self) -> None:
        """Store the waiting events, group by group, until none is left."""
        try:
            while self._waiting:
                await asyncio.sleep(_GATHER_SECONDS)
                group, self._waiting = self._waiting[:_MAX_GROUP], self._waiting[_MAX_GROUP:]
                await self._store_group(group)
        finally:
            self._flusher = None
            for single in self._waiting:  # only if this task was cancelled
                single.stored.cancel()
            self._waiting = []

    async def _store_group(self, group: Sequence[SingleEvent]) -> None:
        try:
            await self.store(group)
        except asyncio.CancelledError:
            for single in group:
                single.stored.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - it is raised in the callers
            if len(group) > 1 and not isinstance(error, UNREACHABLE):
                for single in group:  # one event's failure must not fail the others
                    await self._store_group([single])
                return
            for single in group:
                if not single.stored.done():
                    single.stored.set_exception(error)
            return
        for single in group:
            if not single.stored.done():  # cancelled if its caller has disconnected
                single.stored.set_result(single.outcomes[0])

    async def close(self) -> None:
        """Store the events that still wait."""
        if self._flusher is not None:
            with suppress(asyncio.CancelledError):
                await self._flusher


async def _prepare(
    submissions: Sequence[Submission], types: Mapping[str, EventType], window: Window
) -> list[PreparedEvent | IngestResult]:
    """Each item of the submissions, as a prepared event or as its rejection."""
    prepared: list[PreparedEvent | IngestResult] = []
    pace = Pace()
    for submission in submissions:
        for item in submission.items:
            if isinstance(item, EventInput):
                declared = types.get(item.event_type)
                prepared.append(_prepare_one(item, declared, window, historical=submission.historical))
            else:
                prepared.append(item)
            await pace.rest()
    return prepared


def _prepare_one(
    event: EventInput, declared: EventType | None, window: Window, *, historical: bool
) -> PreparedEvent | IngestResult:
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


class Notifier:
    """Sends NOTIFY to the projectors after commits, on a connection of its own, at most once in 10 ms.

    With a NOTIFY in the transactions of ingest, Postgres would commit them one after the other.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._database.open()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self._database.close()

    def wake(self) -> None:
        """Notify the projectors within 10 ms."""
        self._due.set()

    async def _run(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            with suppress(asyncpg.PostgresError, *UNREACHABLE):  # the projectors also poll
                async with self._database.connection() as connection:
                    await log.notify(connection)
            await asyncio.sleep(_QUIET_SECONDS)
