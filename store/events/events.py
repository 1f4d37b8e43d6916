"""The log of events: written under its people's consent, read back by person."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from models.errors import UserErasedError, UserNotFoundError
from models.rules.event_privacy import Forbidden, without
from models.rules.folding import WORKFLOW_SESSION
from models.rules.ingest import (
    ACCEPTED,
    CONSENT_REQUIRED,
    DUPLICATE,
    EVENT_ID_CONFLICT,
    USER_ERASED,
    USER_UNKNOWN,
    NewEvent,
    Outcome,
)
from models.rules.sharding import shard_of
from models.vocabulary import Purpose
from privacy.encryption import Cipher, DataKey
from store.connection import Connection
from store.consents import locks
from store.events import ids

BODY = "events.body"
_COLUMNS = (
    "event_id",
    "user_id",
    "event_type",
    "timestamp",
    "session_id",
    "shard",
    "generation",
    "historical",
    "body",
    "dimensions",
)

_GATE = """
    SELECT w.user_id, k.wrapped, u.present, u.preferences, c.granted, g.generation
      FROM (SELECT coalesce((SELECT generation FROM log_generation), 1) AS generation) g
     CROSS JOIN unnest($1::text[]) AS w(user_id)
      JOIN LATERAL (SELECT wrapped FROM data_keys WHERE subject = w.user_id LIMIT 1) k ON true
      LEFT JOIN LATERAL (SELECT true AS present, nullif(privacy_preferences, '{}') AS preferences
                           FROM users WHERE user_id = w.user_id LIMIT 1) u ON true
      LEFT JOIN LATERAL (SELECT granted FROM consents WHERE user_id = w.user_id AND purpose = $2 LIMIT 1) c ON true
"""
"""LIMIT keeps the planner at three look-ups for each person; left to itself it reads all consents for a batch."""


@dataclass(frozen=True, slots=True)
class _Person:
    """Somebody of whom events may be stored."""

    key: DataKey
    forbidden: Forbidden | None
    shard: int


@dataclass(frozen=True, slots=True)
class _Gate:
    """Whom a batch may speak of, why not of the others, and the generation of the log."""

    people: Mapping[str, _Person]
    refusals: Mapping[str, Outcome]
    generation: int


@dataclass(frozen=True)
class StoredEvent:
    """An event as it is stored, opened."""

    event_id: str
    user_id: str
    event_type: str
    timestamp: datetime
    session_id: str
    historical: bool
    received_at: datetime
    body: Mapping[str, Any]


async def record(connection: Connection, cipher: Cipher, events: Sequence[NewEvent]) -> list[Outcome]:
    """Store those events of a batch that may be stored; what became of each, in their order.

    To be called in a READ COMMITTED transaction that has read nothing yet and does nothing else. Raises
    asyncpg's CheckViolationError where the partition of a month is missing.
    """
    if not events:
        return []
    user_ids = {event.user_id for event in events}
    await locks.share(connection, user_ids)
    gate = await _read_gate(connection, cipher, user_ids)
    permitted = [place for place, event in enumerate(events) if event.user_id in gate.people]
    outcomes = [ACCEPTED] * len(events)
    if len(permitted) < len(events):
        outcomes = [_refusal(event, gate) or ACCEPTED for event in events]
    first: dict[str, int] = {}
    repeats = [place for place in permitted if first.setdefault(events[place].event_id, place) != place]
    marks = {event_id: _mark(events[place]) for event_id, place in first.items()}
    ordered = sorted(first)
    free = await ids.take(connection, [(each, marks[each], events[first[each]].timestamp) for each in ordered])
    if free < len(first):
        ours, others = await ids.settle(connection, ordered)
        repeats += [first[event_id] for event_id in ordered if event_id not in ours]
        ordered = [event_id for event_id in ordered if event_id in ours]
        marks |= others
    for place in repeats:
        same = _mark(events[place]) == marks[events[place].event_id]
        outcomes[place] = DUPLICATE if same else EVENT_ID_CONFLICT
    await _write(connection, [events[first[each]] for each in ordered], gate)
    return outcomes


def _refusal(event: NewEvent, gate: _Gate) -> Outcome | None:
    return None if event.user_id in gate.people else gate.refusals.get(event.user_id, USER_UNKNOWN)


def _mark(event: NewEvent) -> int:
    return ids.fingerprint(event.user_id, event.event_type)


async def _read_gate(connection: Connection, cipher: Cipher, user_ids: Collection[str]) -> _Gate:
    """What some people permit; the statement after the one that took the locks."""
    rows = await connection.fetch(_GATE, list(user_ids), Purpose.DATA_COLLECTION)
    people, refusals = {}, {}
    for user_id, wrapped, present, preferences, granted, _ in rows:
        if wrapped is None:
            refusals[user_id] = USER_ERASED
        elif present and not granted:
            refusals[user_id] = CONSENT_REQUIRED
        elif present:
            key = cipher.unwrap(user_id, wrapped)
            people[user_id] = _Person(key, Forbidden.by(preferences), shard_of(user_id))
    return _Gate(people, refusals, rows[0]["generation"] if rows else 1)


async def _write(connection: Connection, events: Sequence[NewEvent], gate: _Gate) -> None:
    if events:
        await connection.copy_records_to_table(
            "events", records=[_row(event, gate) for event in events], columns=_COLUMNS
        )


def _row(event: NewEvent, gate: _Gate) -> tuple[Any, ...]:
    """The columns of an event, its body encrypted, without what its person's preferences forbid."""
    person = gate.people[event.user_id]
    parts, body = event.parts, event.body
    if person.forbidden:
        parts = without(parts, person.forbidden)
        body = orjson.dumps(parts)
    return (
        event.event_id,
        event.user_id,
        event.event_type,
        event.timestamp,
        event.session_id,
        person.shard,
        gate.generation,
        event.historical,
        person.key.encrypt(BODY, body),
        event.dimensions(parts),
    )


async def last_seen(connection: Connection, user_id: str, pattern: str) -> datetime | None:
    """When the latest event of a user happened, of a type, a category (`engagement.*`) or any (`*`); events that
    workflows record don't count."""
    latest: datetime | None = await connection.fetchval(
        r"""SELECT timestamp FROM events
             WHERE user_id = $1 AND NOT starts_with(session_id, $3)
               AND ($2 = '*' OR event_type = $2
                    OR ($2 LIKE '%.*' AND starts_with(event_type, left($2, -1))))
             ORDER BY timestamp DESC LIMIT 1""",
        user_id,
        pattern,
        WORKFLOW_SESSION,
    )
    return latest


async def list_of_user(
    connection: Connection, cipher: Cipher, user_id: str, *, limit: int, before: tuple[datetime, str] | None
) -> list[StoredEvent]:
    """Up to ``limit`` events of a user, the newest first, before a (timestamp, id).

    Raises :class:`UserNotFoundError` or :class:`UserErasedError`.
    """
    rows = await connection.fetch(
        """SELECT k.wrapped, u.user_id IS NOT NULL AS present, e.*
             FROM data_keys k
             LEFT JOIN users u ON u.user_id = k.subject
             LEFT JOIN LATERAL (
                   SELECT event_id, event_type, timestamp, session_id, historical, received_at, body
                     FROM events WHERE user_id = k.subject AND k.wrapped IS NOT NULL
                      AND ($3::timestamptz IS NULL OR (timestamp, event_id) < ($3, $4))
                    ORDER BY timestamp DESC, event_id DESC LIMIT $2) e ON true
            WHERE k.subject = $1""",
        user_id,
        limit,
        *(before or (None, None)),
    )
    if not rows or (rows[0]["wrapped"] is not None and not rows[0]["present"]):
        raise UserNotFoundError
    if rows[0]["wrapped"] is None:
        raise UserErasedError
    key = cipher.unwrap(user_id, rows[0]["wrapped"])
    return [
        StoredEvent(
            event_id=row["event_id"],
            user_id=user_id,
            event_type=row["event_type"],
            timestamp=row["timestamp"],
            session_id=row["session_id"],
            historical=row["historical"],
            received_at=row["received_at"],
            body=key.decrypt_json(BODY, row["body"]),
        )
        for row in rows
        if row["event_id"] is not None
    ]
