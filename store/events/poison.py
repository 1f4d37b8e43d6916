"""Events that a consumer could not take: set aside with the type of their error, never its text."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import asyncpg

from models.errors import AlreadySettledError, PoisonEventNotFoundError
from models.rules.folding import FoldedEvent
from store.connection import Connection

PoisonStatus = Literal["open", "replayed", "discarded"]
_NAMES = "poison_id, consumer, event_id, user_id, timestamp, tries, error_type, status, set_aside_at"


@dataclass(frozen=True)
class StoredPoison:
    """An event that was set aside."""

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
class Refused:
    """An event that can't be taken, and why."""

    event: FoldedEvent
    tries: int
    error: Exception


def is_of_the_event(error: Exception) -> bool:
    """Whether a failure to write what was folded can come from an event's content, so that setting it aside
    would help: Postgres refused the data.

    Anything else would befall every event, be it for Postgres' reasons (no space, a deadlock, a table that isn't
    there), a key that this process lacks, or a bug of ours: that calls for patience, or for mending, and sets
    nothing aside.
    """
    return isinstance(error, asyncpg.DataError | asyncpg.IntegrityConstraintViolationError)


async def set_aside(connection: Connection, consumer: str, refused: Sequence[Refused]) -> None:
    """Keep what a consumer passes over, in the transaction in which it does."""
    if not refused:
        return
    await connection.executemany(
        """INSERT INTO poison_events (poison_id, consumer, event_id, user_id, timestamp, tries, error_type, status)
           VALUES ($1, $2, $3, $4, $5, $6, $7, 'open')""",
        [
            (
                uuid.uuid4().hex,
                consumer,
                each.event.event_id,
                each.event.user_id,
                each.event.timestamp,
                each.tries,
                type(each.error).__name__,
            )
            for each in refused
        ],
    )


async def settle(connection: Connection, poison_id: str, status: PoisonStatus) -> StoredPoison:
    """Settle an open one, which only one caller can; raises :class:`PoisonEventNotFoundError`, :class:`AlreadySettledError`.

    Where the transaction is rolled back it stays open.
    """
    row = await connection.fetchrow(
        f"UPDATE poison_events SET status = $2 WHERE poison_id = $1 AND status = 'open' RETURNING {_NAMES}",
        poison_id,
        status,
    )
    if row is None:
        if await connection.fetchval("SELECT true FROM poison_events WHERE poison_id = $1", poison_id):
            raise AlreadySettledError
        raise PoisonEventNotFoundError
    return StoredPoison(*row)


async def page(
    connection: Connection, *, status: PoisonStatus | None, before: tuple[datetime, str] | None, limit: int
) -> list[StoredPoison]:
    """Events that were set aside, newest first, after a position in that order."""
    rows = await connection.fetch(
        f"""SELECT {_NAMES} FROM poison_events
             WHERE ($1::text IS NULL OR status = $1)
               AND ($2::timestamptz IS NULL OR (set_aside_at, poison_id) < ($2, $3))
             ORDER BY set_aside_at DESC, poison_id DESC LIMIT $4""",
        status,
        before[0] if before else None,
        before[1] if before else None,
        limit,
    )
    return [StoredPoison(*row) for row in rows]
