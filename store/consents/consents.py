"""Consents: the current state in `consents`, and the append-only `consent_history`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncpg import Record
from sqlalchemy import bindparam, func, update
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlmodel import col

from models.errors import UserErasedError, UserNotFoundError
from models.tables.people import Consent, ConsentRecord, DataKey, User
from models.vocabulary import Purpose
from store.connection import Connection
from store.consents import locks
from store.instances import transitions
from store.statements import one_of, parameters, select, sql, statement


@dataclass(frozen=True)
class ConsentChange:
    """A grant or withdrawal of one purpose that comes with a profile."""

    user_id: str
    purpose: str
    granted: bool


@dataclass(frozen=True)
class ConsentDecision:
    """A person's grant or withdrawal of one purpose, with its legal basis."""

    purpose: Purpose
    granted: bool
    source: str
    policy_version: str | None
    legal_basis: str


@dataclass(frozen=True)
class ConsentEntry:
    """A decision in the history; a later one has a higher ``record_id``."""

    record_id: int
    decision: ConsentDecision
    actor: str
    recorded_at: datetime


_OF_USERS = statement(
    select(col(Consent.user_id), col(Consent.purpose), col(Consent.granted)).where(
        one_of(col(Consent.user_id), "user_ids")
    )
)


async def of_users(connection: Connection, user_ids: Collection[str]) -> Mapping[str, dict[str, bool]]:
    """The consents of users, by user id and purpose; empty for a user without decisions."""
    rows = await _OF_USERS.fetch(connection, user_ids=list(user_ids))
    found: defaultdict[str, dict[str, bool]] = defaultdict(dict)
    for row in rows:
        found[row["user_id"]][row["purpose"]] = row["granted"]
    return found


# SQL text: a CTE that writes two tables.
_RECORD = sql(
    """
    WITH changed AS (
        INSERT INTO consents AS c (user_id, purpose, granted)
        SELECT given.user_id, given.purpose, given.granted
          FROM unnest(cast(:user_ids AS text[]), cast(:purposes AS text[]), cast(:granted AS boolean[]))
               AS given (user_id, purpose, granted)
        ON CONFLICT (user_id, purpose) DO UPDATE
        SET granted = excluded.granted, changed_at = clock_timestamp()
        WHERE c.granted <> excluded.granted
        RETURNING user_id, purpose, granted)
    INSERT INTO consent_history (user_id, purpose, granted, source, actor)
    SELECT user_id, purpose, granted, :source, :actor FROM changed
    """
)


async def record(connection: Connection, changes: Sequence[ConsentChange], *, source: str, actor: str) -> None:
    """Set consents, and append those that differ from the current state to the history.

    The caller has locked the people's rows and, for a withdrawal, their buckets (:mod:`store.consents.locks`). So
    the entry gets a later time than any event stored before it.
    The last entry is in force.

    ``actor`` is the id of the API key. Rows are written in the order of (user, purpose), so that transactions with
    the same people queue instead of deadlocking.
    """
    if not changes:
        return
    ordered = sorted(changes, key=lambda change: (change.user_id, change.purpose))
    await _RECORD.execute(
        connection,
        user_ids=[change.user_id for change in ordered],
        purposes=[change.purpose for change in ordered],
        granted=[change.granted for change in ordered],
        source=source,
        actor=actor,
    )


async def decide(connection: Connection, user_id: str, decision: ConsentDecision, *, actor: str) -> ConsentEntry:
    """Record a person's decision, unless it equals the last one; returns the entry in force.

    Raises :class:`UserNotFoundError` or :class:`UserErasedError`.

    Lock order: the person's row, then for a withdrawal the bucket (:mod:`store.consents.locks`). After a
    withdrawal commits, no transaction stores an event of the person. No stored event was received after it.
    """
    await _lock_user(connection, user_id)
    last = (await latest(connection, user_id)).get(decision.purpose)
    if last is not None and last.decision == decision:
        return last
    return await _append(connection, user_id, decision, actor)


async def withdraw(connection: Connection, user_id: str, purpose: Purpose, *, actor: str) -> ConsentEntry:
    """As :func:`decide`, for a withdrawal; a consent that is already withdrawn keeps its entry."""
    await _lock_user(connection, user_id)
    last = (await latest(connection, user_id)).get(purpose)
    if last is not None and not last.decision.granted:
        return last
    decision = ConsentDecision(purpose, granted=False, source="api", policy_version=None, legal_basis="consent")
    return await _append(connection, user_id, decision, actor)


_NEW = insert(Consent).values(parameters("user_id", "purpose", "granted"))
_SET = statement(
    _NEW.on_conflict_do_update(
        index_elements=["user_id", "purpose"],
        set_={"granted": _NEW.excluded.granted, "changed_at": func.clock_timestamp()},
    )
)
_APPEND = statement(
    insert(ConsentRecord)
    .values(parameters("user_id", "purpose", "granted", "source", "policy_version", "legal_basis", "actor"))
    .returning(col(ConsentRecord.record_id), col(ConsentRecord.recorded_at))
)
_TOUCH_USER = statement(
    update(User)
    .values(version=col(User.version) + 1, updated_at=func.statement_timestamp())
    .where(col(User.user_id) == bindparam("user_id"))
)


async def _append(connection: Connection, user_id: str, decision: ConsentDecision, actor: str) -> ConsentEntry:
    if not decision.granted:
        await locks.exclude(connection, [user_id])
    await _SET.execute(connection, user_id=user_id, purpose=decision.purpose, granted=decision.granted)
    row = await _APPEND.fetchrow(
        connection,
        user_id=user_id,
        purpose=decision.purpose,
        granted=decision.granted,
        source=decision.source,
        policy_version=decision.policy_version,
        legal_basis=decision.legal_basis,
        actor=actor,
    )
    assert row is not None  # RETURNING gives the row
    await _TOUCH_USER.execute(connection, user_id=user_id)
    if not decision.granted:
        await transitions.cancel_withdrawn(connection, [(user_id, decision.purpose.value)])
    return ConsentEntry(row["record_id"], decision, actor, row["recorded_at"])


_LOCK_USER = statement(
    select(col(User.user_id)).where(col(User.user_id) == bindparam("user_id")).with_for_update()
)
_IS_ERASED = statement(select(col(DataKey.wrapped).is_(None)).where(col(DataKey.subject) == bindparam("user_id")))


async def _lock_user(connection: Connection, user_id: str) -> None:
    locked = await _LOCK_USER.fetchval(connection, user_id=user_id)
    # A separate statement, so that it sees an erasure whose transaction the lock waited for.
    if await _IS_ERASED.fetchval(connection, user_id=user_id):
        raise UserErasedError
    if locked is None:
        raise UserNotFoundError


_ENTRY: list[Any] = [
    col(ConsentRecord.record_id),
    col(ConsentRecord.purpose),
    col(ConsentRecord.granted),
    col(ConsentRecord.source),
    col(ConsentRecord.policy_version),
    col(ConsentRecord.legal_basis),
    col(ConsentRecord.actor),
    col(ConsentRecord.recorded_at),
]
_LATEST = statement(
    select(*_ENTRY)
    .ext(distinct_on(col(ConsentRecord.purpose)))
    .where(col(ConsentRecord.user_id) == bindparam("user_id"))
    .order_by(col(ConsentRecord.purpose), col(ConsentRecord.record_id).desc())
)


async def latest(connection: Connection, user_id: str) -> dict[Purpose, ConsentEntry]:
    """A person's last decision on each purpose."""
    rows = await _LATEST.fetch(connection, user_id=user_id)
    return {entry.decision.purpose: entry for entry in map(_entry, rows)}


_HISTORY = statement(
    select(*_ENTRY)
    .where(col(ConsentRecord.user_id) == bindparam("user_id"), col(ConsentRecord.record_id) > bindparam("after"))
    .order_by(col(ConsentRecord.record_id))
    .limit(bindparam("limit"))
)


async def history(connection: Connection, user_id: str, *, limit: int, after: int) -> list[ConsentEntry]:
    """Up to ``limit`` decisions of a person, the oldest first, after a record id."""
    return [_entry(row) for row in await _HISTORY.fetch(connection, user_id=user_id, after=after, limit=limit)]


def _entry(row: Record) -> ConsentEntry:
    decision = ConsentDecision(
        Purpose(row["purpose"]), row["granted"], row["source"], row["policy_version"], row["legal_basis"]
    )
    return ConsentEntry(row["record_id"], decision, row["actor"], row["recorded_at"])
