"""Consents: the current state in `consents`, and the append-only `consent_history`."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncpg import Record
from sqlalchemy import Integer, bindparam, column, func, update
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlmodel import col

from models.errors import PerennialError, UserErasedError, UserNotFoundError
from models.tables.people import Consent, ConsentRecord, DataKey, User
from models.vocabulary import Purpose
from store import idempotency
from store.connection import Connection
from store.consents import locks
from store.instances import transitions
from store.statements import one_of, select, sql, statement, unnested


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


@dataclass(frozen=True)
class Decided:
    """The outcome of decisions."""

    results: Sequence[bool | type[PerennialError]]
    """In the order of the decisions: whether it was recorded, or the reason why not."""
    in_force: Mapping[tuple[str, Purpose], ConsentEntry]
    """The last entries of the people, by user and purpose."""


async def decide_all(
    connection: Connection,
    decisions: Sequence[tuple[str, ConsentDecision]],
    *,
    actor: str,
    keep_recorded: Collection[str] = (),
    repeats: Callable[[ConsentDecision, ConsentDecision], bool] = operator.eq,
) -> Decided:
    """Record people's decisions in order, each unless it ``repeats`` the last one on its purpose.

    For the purposes ``keep_recorded`` a grant changes no recorded decision, such as a withdrawal. The results have
    :class:`UserNotFoundError` and :class:`UserErasedError` for people who aren't there.

    Lock order: the people's rows by id, then for withdrawals their buckets (:mod:`store.consents.locks`). After a
    withdrawal commits, no transaction stores an event of the person. No stored event was received after it.
    """
    people = {user_id for user_id, _ in decisions}
    present = {row["user_id"] for row in await _LOCK_USERS.fetch(connection, user_ids=list(people))}
    # A separate statement, so that it sees an erasure whose transaction the lock waited for.
    erased = {row["subject"] for row in await _ERASED.fetch(connection, user_ids=list(people))}
    in_force = await _latest_of(connection, present)
    last = {place: entry.decision for place, entry in in_force.items()}
    results: list[bool | type[PerennialError]] = []
    new: list[tuple[str, ConsentDecision]] = []
    for user_id, decision in decisions:
        held = last.get((user_id, decision.purpose))
        if user_id in erased or user_id not in present:
            results.append(UserErasedError if user_id in erased else UserNotFoundError)
            continue
        kept = held and decision.granted and decision.purpose in keep_recorded
        changed = held is None or not (kept or repeats(held, decision))
        results.append(changed)
        if changed:
            new.append((user_id, decision))
            last[user_id, decision.purpose] = decision
    recorded = await _append(connection, new, actor) if new else []
    in_force |= {
        (user_id, entry.decision.purpose): entry for (user_id, _), entry in zip(new, recorded, strict=True)
    }
    return Decided(results, in_force)


async def decide(connection: Connection, user_id: str, decision: ConsentDecision, *, actor: str) -> ConsentEntry:
    """Record a person's decision as :func:`decide_all` does; returns the entry in force.

    Raises :class:`UserNotFoundError` or :class:`UserErasedError`.
    """
    decided = await decide_all(connection, [(user_id, decision)], actor=actor)
    return _entry_in_force(decided, user_id, decision.purpose)


async def withdraw(connection: Connection, user_id: str, purpose: Purpose, *, actor: str) -> ConsentEntry:
    """As :func:`decide`, for a withdrawal; a consent that is already withdrawn keeps its entry."""
    decision = ConsentDecision(purpose, granted=False, source="api", policy_version=None, legal_basis="consent")
    decided = await decide_all(
        connection, [(user_id, decision)], actor=actor, repeats=lambda last, _: not last.granted
    )
    return _entry_in_force(decided, user_id, purpose)


def _entry_in_force(decided: Decided, user_id: str, purpose: Purpose) -> ConsentEntry:
    [result] = decided.results
    if not isinstance(result, bool):
        raise result
    return decided.in_force[user_id, purpose]


_GIVEN_STATES = unnested("given", col(Consent.user_id), col(Consent.purpose), col(Consent.granted))
_NEW = insert(Consent).from_select(["user_id", "purpose", "granted"], select(*_GIVEN_STATES.c))
_SET = statement(
    _NEW.on_conflict_do_update(
        index_elements=["user_id", "purpose"],
        set_={"granted": _NEW.excluded.granted, "changed_at": func.clock_timestamp()},
    )
)
_GIVEN_RECORDS = unnested(
    "given",
    column("position", Integer),
    col(ConsentRecord.user_id),
    col(ConsentRecord.purpose),
    col(ConsentRecord.granted),
    col(ConsentRecord.source),
    col(ConsentRecord.policy_version),
    col(ConsentRecord.legal_basis),
    col(ConsentRecord.actor),
)
_RECORDED = [each for each in _GIVEN_RECORDS.c if each.name != "position"]
_APPEND = statement(
    insert(ConsentRecord)
    .from_select([each.name for each in _RECORDED], select(*_RECORDED).order_by(_GIVEN_RECORDS.c.position))
    .returning(col(ConsentRecord.record_id), col(ConsentRecord.recorded_at))
)
_TOUCH_USERS = statement(
    update(User)
    .values(version=col(User.version) + 1, updated_at=func.statement_timestamp())
    .where(one_of(col(User.user_id), "user_ids"))
)


async def _append(
    connection: Connection, new: Sequence[tuple[str, ConsentDecision]], actor: str
) -> list[ConsentEntry]:
    """Write decisions. Of several on one purpose of a person the last is in force."""
    withdrawn = {(user_id, decision.purpose.value) for user_id, decision in new if not decision.granted}
    await locks.exclude(connection, {user_id for user_id, _ in withdrawn})
    states = {(user_id, decision.purpose.value): decision.granted for user_id, decision in new}
    await _SET.execute(
        connection,
        user_id=[user_id for user_id, _ in states],
        purpose=[purpose for _, purpose in states],
        granted=list(states.values()),
    )
    rows = await _APPEND.fetch(
        connection,
        position=list(range(len(new))),
        user_id=[user_id for user_id, _ in new],
        actor=[actor] * len(new),
        **{
            name: [getattr(decision, name) for _, decision in new]
            for name in ("purpose", "granted", "source", "policy_version", "legal_basis")
        },
    )
    await _TOUCH_USERS.execute(connection, user_ids=list({user_id for user_id, _ in new}))
    await transitions.cancel_withdrawn(connection, withdrawn)
    await idempotency.forget(connection, {user_id for user_id, _ in withdrawn})
    ordered = sorted(rows, key=lambda row: int(row["record_id"]))
    return [
        ConsentEntry(row["record_id"], decision, actor, row["recorded_at"])
        for row, (_, decision) in zip(ordered, new, strict=True)
    ]


_LOCK_USERS = statement(
    select(col(User.user_id))
    .where(one_of(col(User.user_id), "user_ids"))
    .order_by(col(User.user_id))
    .with_for_update()
)
_ERASED = statement(
    select(col(DataKey.subject)).where(one_of(col(DataKey.subject), "user_ids"), col(DataKey.wrapped).is_(None))
)


_ENTRY: list[Any] = [
    col(ConsentRecord.record_id),
    col(ConsentRecord.user_id),
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
    .ext(distinct_on(col(ConsentRecord.user_id), col(ConsentRecord.purpose)))
    .where(one_of(col(ConsentRecord.user_id), "user_ids"))
    .order_by(col(ConsentRecord.user_id), col(ConsentRecord.purpose), col(ConsentRecord.record_id).desc())
)


async def latest(connection: Connection, user_id: str) -> dict[Purpose, ConsentEntry]:
    """A person's last decision on each purpose."""
    return {purpose: entry for (_, purpose), entry in (await _latest_of(connection, [user_id])).items()}


async def _latest_of(connection: Connection, user_ids: Collection[str]) -> dict[tuple[str, Purpose], ConsentEntry]:
    rows = await _LATEST.fetch(connection, user_ids=list(user_ids))
    return {
        (row["user_id"], entry.decision.purpose): entry for row, entry in zip(rows, map(_entry, rows), strict=True)
    }


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
