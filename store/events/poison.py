"""Poison events: a consumer failed to process them and set them aside. Only the error's type is kept."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import asyncpg
from sqlalchemy import bindparam, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.errors import AlreadySettledError, EventGoneError, PoisonEventNotFoundError, StillUnusableError
from models.rules.folding import LogEvent, Projection
from models.rules.rollups import counted
from models.rules.series import DIMENSION_VALUES
from models.rules.sharding import shard_of
from models.rules.stages import DEFAULT_PERIODS, Periods
from models.rules.triggers import WorkflowTrigger
from models.tables.events import PoisonEvent
from privacy.encryption import Cipher, DecryptionError
from store import outbox
from store.connection import Connection
from store.consents import locks
from store.events import log, projection
from store.rollups import deltas, series
from store.statements import filtered, parameters, select, statement
from store.users import changes, data_keys, people, stages, users

PoisonStatus = Literal["open", "replayed", "discarded"]


@dataclass(frozen=True)
class StoredPoison:
    poison_id: str
    consumer: str
    event_id: str
    user_id: str
    timestamp: datetime
    tries: int
    error_type: str
    status: PoisonStatus
    set_aside_at: datetime


@dataclass(frozen=True)
class UnusableEvent:
    """An event that can't be processed, and its error."""

    event: LogEvent
    tries: int
    error: Exception


def is_of_the_event(error: Exception) -> bool:
    """Whether Postgres rejected the data of an event, so that setting it aside helps.

    Any other error would fail every event: no disk space, a deadlock, a missing table or key, a bug. The consumer
    then sets nothing aside and retries until the cause is gone.
    """
    return isinstance(error, asyncpg.DataError | asyncpg.IntegrityConstraintViolationError)


_SET_ASIDE = statement(
    insert(PoisonEvent).values(
        **parameters("poison_id", "consumer", "event_id", "user_id", "timestamp", "tries", "error_type"),
        status="open",
    )
)


async def set_aside(connection: Connection, consumer: str, events: Sequence[UnusableEvent]) -> None:
    """Store the events that a consumer skips, in the transaction that moves its cursor past them."""
    if events:
        await _SET_ASIDE.executemany(
            connection,
            [
                {
                    "poison_id": uuid.uuid4().hex,
                    "consumer": consumer,
                    "event_id": each.event.event_id,
                    "user_id": each.event.user_id,
                    "timestamp": each.event.timestamp,
                    "tries": each.tries,
                    "error_type": type(each.error).__name__,
                }
                for each in events
            ],
        )


# StoredPoison takes these columns by their position.
_STORED: list[Any] = [
    col(PoisonEvent.poison_id),
    col(PoisonEvent.consumer),
    col(PoisonEvent.event_id),
    col(PoisonEvent.user_id),
    col(PoisonEvent.timestamp),
    col(PoisonEvent.tries),
    col(PoisonEvent.error_type),
    col(PoisonEvent.status),
    col(PoisonEvent.set_aside_at),
]
_SETTLE = statement(
    update(PoisonEvent)
    .values(status=bindparam("status"))
    .where(col(PoisonEvent.poison_id) == bindparam("poison_id"), col(PoisonEvent.status) == "open")
    .returning(*_STORED)
)
_FIND = statement(select(col(PoisonEvent.poison_id)).where(col(PoisonEvent.poison_id) == bindparam("poison_id")))


async def settle(connection: Connection, poison_id: str, status: PoisonStatus) -> StoredPoison:
    """Settle an open event. Only one of several callers succeeds; after a rollback the event is open.

    Raises :class:`PoisonEventNotFoundError` or :class:`AlreadySettledError`.
    """
    row = await _SETTLE.fetchrow(connection, poison_id=poison_id, status=status)
    if row is None:
        if await _FIND.fetchval(connection, poison_id=poison_id):
            raise AlreadySettledError
        raise PoisonEventNotFoundError
    return StoredPoison(*row)


async def replay(
    connection: Connection,
    cipher: Cipher,
    triggers: Sequence[WorkflowTrigger],
    poison_id: str,
    periods: Periods = DEFAULT_PERIODS,
    dimension_values: int = DIMENSION_VALUES,
) -> StoredPoison:
    """Project a poison event exactly once, in the caller's transaction.

    Raises :class:`StillUnusableError` if it fails again, :class:`EventGoneError`,
    :class:`models.errors.UserErasedError`, and the errors of :func:`settle`. The caller then rolls back, and the
    event stays open.
    """
    settled = await settle(connection, poison_id, "replayed")
    shard = shard_of(settled.user_id)
    await deltas.share(connection, shard)
    await users.lock_rows(connection, [settled.user_id])
    await locks.exclude(connection, [settled.user_id])  # it may close the account
    try:
        key = await data_keys.require(connection, cipher, settled.user_id)
    except DecryptionError as error:
        raise StillUnusableError(type(error).__name__) from None
    logged = await log.find_event(connection, settled.user_id, settled.timestamp, settled.event_id)
    if logged is None:
        raise EventGoneError
    event = logged.decrypted_with(key)
    projected, keys = Projection(), {settled.user_id: key}
    try:
        projected.add(event)
    except Exception as error:  # noqa: BLE001 - any error of the pure code comes from the event
        raise StillUnusableError(type(error).__name__) from None
    try:
        if projected.changes:
            locked = await users.lock_one(connection, cipher, settled.user_id)
            await changes.apply(connection, cipher, locked, projected.changes)
        entries = counted([event], projected)
        _, known = await series.register(connection, [each.key for each in entries], dimension_values)
        sessions = await projection.write(connection, projected, keys, periods)
        await stages.move_by_activity(connection, cipher, keys, [event], datetime.now(UTC), periods)
        persons = await people.numbers(connection, keys)
        await deltas.write(connection, shard, entries, known, persons, event.received_at, sessions)
        await outbox.enqueue(connection, [event], triggers, keys)
    except Exception as error:
        if is_of_the_event(error) or isinstance(error, DecryptionError):
            raise StillUnusableError(type(error).__name__) from None
        raise
    return settled


_PAGE = filtered(
    select(*_STORED)
    .order_by(col(PoisonEvent.set_aside_at).desc(), col(PoisonEvent.poison_id).desc())
    .limit(bindparam("limit")),
    status=col(PoisonEvent.status) == bindparam("status"),
    before=tuple_(col(PoisonEvent.set_aside_at), col(PoisonEvent.poison_id))
    < tuple_(bindparam("set_aside_at"), bindparam("poison_id")),
)


async def page(
    connection: Connection, *, status: PoisonStatus | None, before: tuple[datetime, str] | None, limit: int
) -> list[StoredPoison]:
    """Poison events, newest first, before a (time, poison id)."""
    set_aside_at, poison_id = before or (None, None)
    rows = await _PAGE.fetch(
        connection, limit=limit, status=status, set_aside_at=set_aside_at, poison_id=poison_id
    )
    return [StoredPoison(*row) for row in rows]
