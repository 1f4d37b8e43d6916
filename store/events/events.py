"""Writes events that their users' consents permit, and reads when a user was last seen.

An event of a type with another basis than consent (ADR 0042) is also stored without consent, for transactions
and service workflows alone. Neither reads `location`, `device_info`, `referrer` or dimensions, so these are left
out. Opt-outs don't apply to the properties: the contract or the law needs them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any

import orjson
from sqlalchemy import ColumnElement, bindparam, func, literal_column, true
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.personal import columns_of
from models.rules.event_privacy import OptOuts, redact
from models.rules.folding import WORKFLOW_SESSION
from models.rules.ingest import (
    ACCEPTED,
    CONSENT_REQUIRED,
    DATA_UNREADABLE,
    DUPLICATE,
    EVENT_ID_CONFLICT,
    USER_ERASED,
    USER_UNKNOWN,
    IngestResult,
    PreparedEvent,
)
from models.rules.sharding import shard_of
from models.tables.events import Event, EventId, LogGeneration
from models.tables.people import Consent, User
from models.tables.people import DataKey as DataKeyRow
from models.vocabulary import Basis, Purpose
from privacy.encryption import Cipher, DataKey, DecryptionError
from store.connection import Connection
from store.consents import locks
from store.events import types
from store.pacing import each
from store.statements import Statement, filtered, one_of, select, statement, unnested
from store.users import data_keys

BODY = "events.body"
_COPIED = [each.name for each in columns_of(Event) if each.server_default is None]
"""The columns that COPY writes, in the order of :func:`_row`; the others have defaults in Postgres."""
_CONSENT = Basis.CONSENT.value
_ONE: ColumnElement[int] = literal_column("1")


@dataclass(frozen=True, slots=True)
class _Person:
    """A user whose events may be stored; without consent only those of types with another basis."""

    key: DataKey
    opt_outs: OptOuts | None
    shard: int
    consented: bool


@dataclass(frozen=True, slots=True)
class _Gate:
    """The users of a batch whose events may be stored, and the log's generation."""

    people: Mapping[str, _Person]
    outcomes: Mapping[str, IngestResult]
    """By user id, the outcome of events that need consent."""
    generation: int
    bases: Mapping[str, str]
    """By event type, the bases with which an event is stored without consent."""


async def record(
    connection: Connection, cipher: Cipher, events: Sequence[PreparedEvent | IngestResult]
) -> list[IngestResult]:
    """Store the events of a batch that consents permit; returns one outcome per item, in the items' order.

    An item that is already an :class:`IngestResult` is returned unchanged. Call this in a READ COMMITTED
    transaction that has read nothing yet and does nothing else. Raises asyncpg's CheckViolationError if the
    partition of a month is missing.
    """
    user_ids = {event.user_id for event in events if isinstance(event, PreparedEvent)}
    if not user_ids:
        return [each for each in events if isinstance(each, IngestResult)]
    await locks.share(connection, user_ids)
    # The next statement after the lock sees every withdrawal that the lock waited for.
    gate = await _read_gate(connection, cipher, user_ids, events)
    outcomes: list[IngestResult] = []
    first: dict[str, PreparedEvent] = {}
    for event in events:
        if isinstance(event, IngestResult):
            outcomes.append(event)
            continue
        outcome = gate.outcomes[event.user_id]
        if outcome is CONSENT_REQUIRED and event.event_type in gate.bases:
            outcome = ACCEPTED
        outcomes.append(outcome)
        if outcome is ACCEPTED:
            first.setdefault(event.event_id, event)
    new, fingerprints = await _take_ids(connection, first)
    for place, event in enumerate(events):
        if (
            outcomes[place] is ACCEPTED
            and isinstance(event, PreparedEvent)
            and new.get(event.event_id) is not event
        ):
            same = _fingerprint(event) == fingerprints[event.event_id]
            outcomes[place] = DUPLICATE if same else EVENT_ID_CONFLICT
    await _write(connection, new.values(), gate)
    return outcomes


def _gate_statement() -> Statement:
    asked = unnested("asked", col(User.user_id))
    # With LIMIT, Postgres does three index look-ups per user. Without it, it reads the whole consents table.
    key = select(col(DataKeyRow.wrapped)).where(col(DataKeyRow.subject) == asked.c.user_id).limit(_ONE)
    preferences = func.nullif(col(User.privacy_preferences), literal_column("'{}'::jsonb")).label("preferences")
    user = select(true().label("present"), preferences).where(col(User.user_id) == asked.c.user_id).limit(_ONE)
    consent = (
        select(col(Consent.granted))
        .where(col(Consent.user_id) == asked.c.user_id, col(Consent.purpose) == Purpose.DATA_COLLECTION)
        .limit(_ONE)
    )
    k, u, c = key.lateral("k"), user.lateral("u"), consent.lateral("c")
    generation = func.coalesce(select(col(LogGeneration.generation)).scalar_subquery(), 1).label("generation")
    return statement(
        select(asked.c.user_id, k.c.wrapped, u.c.present, u.c.preferences, c.c.granted, generation)
        .select_from(asked)
        .join(k, true())
        .outerjoin(u, true())
        .outerjoin(c, true())
    )


_GATE = _gate_statement()


async def _read_gate(
    connection: Connection,
    cipher: Cipher,
    user_ids: Collection[str],
    events: Sequence[PreparedEvent | IngestResult],
) -> _Gate:
    rows = await _GATE.fetch(connection, user_id=list(user_ids))
    denied = {user_id for user_id, _, present, _, granted, _ in rows if present and not granted}
    bases, without = await _bases(connection, denied, events) if denied else (_NO_BASES, denied)
    opened = data_keys.readable(
        {
            user_id: data_keys.unwrapped(cipher, user_id, wrapped)
            for user_id, wrapped, present, _, granted, _ in rows
            if wrapped is not None and present and (granted or user_id in without)
        }
    )
    people: dict[str, _Person] = {}
    outcomes = dict.fromkeys(user_ids, USER_UNKNOWN)
    for user_id, wrapped, present, preferences, granted, _ in rows:
        if wrapped is None:
            outcomes[user_id] = USER_ERASED
        elif present and user_id not in opened:
            outcomes[user_id] = CONSENT_REQUIRED
        elif present:
            key = opened[user_id]
            if isinstance(key, DecryptionError):
                outcomes[user_id] = DATA_UNREADABLE
                continue
            opt_outs = OptOuts.from_preferences(preferences)
            people[user_id] = _Person(key, opt_outs, shard_of(user_id), bool(granted))
            outcomes[user_id] = ACCEPTED if granted else CONSENT_REQUIRED
    return _Gate(people, outcomes, rows[0]["generation"] if rows else 1, bases)


_NO_BASES: Mapping[str, str] = {}


async def _bases(
    connection: Connection, denied: Collection[str], events: Sequence[PreparedEvent | IngestResult]
) -> tuple[Mapping[str, str], set[str]]:
    """Of the events of people without consent: the bases of their types, and the people who have such an event."""
    theirs = [each for each in events if isinstance(each, PreparedEvent) and each.user_id in denied]
    bases = await types.bases_beside_consent(connection, {each.event_type for each in theirs})
    return bases, {each.user_id for each in theirs if each.event_type in bases}


_GIVEN = unnested("given", col(EventId.event_id), col(EventId.fingerprint), col(EventId.timestamp))
_TAKE_IDS = statement(
    insert(EventId)
    .from_select([each.name for each in _GIVEN.c], select(*_GIVEN.c))
    .on_conflict_do_nothing(index_elements=["event_id"])
)
# `xmin` is the id of the inserting transaction. A savepoint would have an id of its own, so record() uses none.
_OURS: ColumnElement[bool] = literal_column("event_ids.xmin = pg_current_xact_id()::xid").label("ours")
_FIND_IDS = statement(
    select(col(EventId.event_id), col(EventId.fingerprint), _OURS).where(
        one_of(col(EventId.event_id), "event_ids")
    )
)


async def _take_ids(
    connection: Connection, events: Mapping[str, PreparedEvent]
) -> tuple[Mapping[str, PreparedEvent], Mapping[str, int]]:
    """Insert the ids that are free; returns the events with new ids, and the stored fingerprints of all ids.

    Ids are inserted in sorted order, so that transactions with the same ids queue instead of deadlocking. If the
    other transaction rolls back, the id is free.
    """
    if not events:
        return {}, {}
    ordered = sorted(events)
    fingerprints = {event_id: _fingerprint(events[event_id]) for event_id in ordered}
    taken = await _TAKE_IDS.execute(
        connection,
        event_id=ordered,
        fingerprint=list(fingerprints.values()),
        timestamp=[events[event_id].timestamp for event_id in ordered],
    )
    if taken < len(ordered):
        # A separate statement, so that it sees the ids that the insert waited for. If retention has deleted one
        # since, it is missing here, and its event counts as a duplicate.
        rows = await _FIND_IDS.fetch(connection, event_ids=ordered)
        fingerprints |= {row["event_id"]: row["fingerprint"] for row in rows}
        ordered = sorted(row["event_id"] for row in rows if row["ours"])
    return {event_id: events[event_id] for event_id in ordered}, fingerprints


def _fingerprint(event: PreparedEvent) -> int:
    """A 64-bit hash of user and type. The same id with another fingerprint is a conflict."""
    digest = blake2b(f"{event.user_id}\x00{event.event_type}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


async def _write(connection: Connection, events: Collection[PreparedEvent], gate: _Gate) -> None:
    if not events:
        return
    people, columns = gate.people, _COPIED
    records = await each(lambda event: _row(event, people[event.user_id], gate.generation), events)
    if gate.bases:  # else all rest on consent, the column's default
        columns = [*_COPIED, "basis"]
        bases = [_CONSENT if people[each.user_id].consented else gate.bases[each.event_type] for each in events]
        records = [(*record, basis) for record, basis in zip(records, bases, strict=True)]
    await connection.copy_records_to_table(Event.__tablename__, records=records, columns=columns)


def _row(event: PreparedEvent, person: _Person, generation: int) -> tuple[Any, ...]:
    """The values of :data:`_COPIED`, without the attributes that the person opted out of."""
    parts, body = event.parts, event.body
    if not person.consented:
        parts = {name: value for name, value in parts.items() if name == "event_properties"}
        body = orjson.dumps(parts)
    elif person.opt_outs:
        parts = redact(parts, person.opt_outs)
        body = orjson.dumps(parts)
    return (
        event.event_id,
        event.user_id,
        event.event_type,
        event.timestamp,
        event.session_id,
        person.shard,
        generation,
        event.historical,
        person.key.encrypt(BODY, body, event.event_id),
        event.dimensions(parts) if person.consented else None,
    )


_LAST_SEEN = filtered(
    select(col(Event.timestamp))
    .where(
        col(Event.user_id) == bindparam("user_id"),
        ~func.starts_with(col(Event.session_id), WORKFLOW_SESSION),
        col(Event.basis) == _CONSENT,
    )
    .order_by(col(Event.timestamp).desc())
    .limit(_ONE),
    event_type=col(Event.event_type) == bindparam("event_type"),
    category=func.starts_with(col(Event.event_type), bindparam("category")),
)


async def last_seen(connection: Connection, user_id: str, pattern: str) -> datetime | None:
    """The time of a user's latest event that was stored with consent, without those that workflows recorded.

    ``pattern`` is a type, a category (`engagement.*`) or `*` for any event.
    """
    by_type = pattern != "*" and not pattern.endswith(".*")
    category = pattern[:-1] if pattern.endswith(".*") else None
    rows = await _LAST_SEEN.fetch(
        connection, user_id=user_id, event_type=pattern if by_type else None, category=category
    )
    return rows[0]["timestamp"] if rows else None


_BODY_OF = statement(
    select(col(Event.body)).where(
        # With the user and the time, the log's index by user finds the event.
        col(Event.user_id) == bindparam("user_id"),
        col(Event.timestamp) == bindparam("timestamp"),
        col(Event.event_id) == bindparam("event_id"),
    )
)


async def properties(
    connection: Connection, key: DataKey, event_id: str, timestamp: datetime
) -> Mapping[str, Any]:
    """The properties of an event of the key's user; empty without any, or if it is not stored or damaged."""
    body = await _BODY_OF.fetchval(connection, user_id=key.subject, timestamp=timestamp, event_id=event_id)
    try:
        parts = key.decrypt_json(BODY, body, event_id)
    except DecryptionError:
        return {}
    return (parts or {}).get("event_properties") or {}
