"""Consents: the present state and its append-only history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from models.errors import UserErasedError, UserNotFoundError
from models.vocabulary import Purpose
from store.connection import Connection
from store.consents import locks, withdrawals


@dataclass(frozen=True)
class ConsentChange:
    """What a person has said about one purpose."""

    user_id: str
    purpose: str
    granted: bool


@dataclass(frozen=True)
class Statement:
    """What a person has said about one purpose, and what it rests on."""

    purpose: Purpose
    granted: bool
    source: str
    policy_version: str | None
    legal_basis: str


@dataclass(frozen=True)
class ConsentEntry:
    """A statement in the history. ``record_id`` grows with every one."""

    record_id: int
    statement: Statement
    actor: str
    recorded_at: datetime


async def of_users(connection: Connection, user_ids: Collection[str]) -> Mapping[str, dict[str, bool]]:
    """What some people have said, by purpose; empty for one who has said nothing."""
    rows = await connection.fetch(
        "SELECT user_id, purpose, granted FROM consents WHERE user_id = ANY($1::text[])", list(user_ids)
    )
    found: defaultdict[str, dict[str, bool]] = defaultdict(dict)
    for row in rows:
        found[row["user_id"]][row["purpose"]] = row["granted"]
    return found


async def record(connection: Connection, changes: Sequence[ConsentChange], *, source: str, actor: str) -> None:
    """Set consents, and write those that differ from what stood to the history, in one statement.

    To be called with the people's rows locked and, for a withdrawal, their buckets (:mod:`store.consents.consents.locks`):
    the time of an entry is the clock's, so that it is later than that of every event that was still taken before
    a withdrawal, and the last entry is the one that stands.

    ``actor`` is the id of the API key that passed them on. Rows are taken in one order, so that two
    transactions with the same people wait for each other instead of deadlocking.
    """
    if not changes:
        return
    ordered = sorted(changes, key=lambda change: (change.user_id, change.purpose))
    await connection.execute(
        """WITH changed AS (
               INSERT INTO consents AS c (user_id, purpose, granted)
               SELECT * FROM unnest($1::text[], $2::text[], $3::boolean[])
               ON CONFLICT (user_id, purpose) DO UPDATE
               SET granted = excluded.granted, changed_at = clock_timestamp()
               WHERE c.granted <> excluded.granted
               RETURNING user_id, purpose, granted)
           INSERT INTO consent_history (user_id, purpose, granted, source, actor)
           SELECT user_id, purpose, granted, $4, $5 FROM changed""",
        [change.user_id for change in ordered],
        [change.purpose for change in ordered],
        [change.granted for change in ordered],
        source,
        actor,
    )


async def state(connection: Connection, user_id: str, said: Statement, *, actor: str) -> ConsentEntry:
    """Take a person's statement: the history gets an entry unless the last one says the same.

    Raises :class:`UserNotFoundError` or :class:`UserErasedError`. The person's row is locked first and then the gate of
    ingest (see :mod:`store.consents.consents.locks`): when the transaction of a withdrawal has committed, no event of the
    person is stored any more, and none that is stored has a later time than the withdrawal.
    """
    await _lock_user(connection, user_id)
    last = (await latest(connection, user_id)).get(said.purpose)
    if last is not None and last.statement == said:
        return last
    return await _append(connection, user_id, said, actor)


async def withdraw(connection: Connection, user_id: str, purpose: Purpose, *, actor: str) -> ConsentEntry:
    """Withdraw a consent, as :func:`state` does; one that stands withdrawn keeps its entry."""
    await _lock_user(connection, user_id)
    last = (await latest(connection, user_id)).get(purpose)
    if last is not None and not last.statement.granted:
        return last
    said = Statement(purpose, granted=False, source="api", policy_version=None, legal_basis="consent")
    return await _append(connection, user_id, said, actor)


async def _append(connection: Connection, user_id: str, said: Statement, actor: str) -> ConsentEntry:
    if not said.granted:
        await locks.exclude(connection, [user_id])
    await connection.execute(
        """INSERT INTO consents AS c (user_id, purpose, granted) VALUES ($1, $2, $3)
           ON CONFLICT (user_id, purpose) DO UPDATE
           SET granted = excluded.granted, changed_at = clock_timestamp()""",
        user_id,
        said.purpose,
        said.granted,
    )
    row = await connection.fetchrow(
        """INSERT INTO consent_history (user_id, purpose, granted, source, policy_version, legal_basis, actor)
           VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING record_id, recorded_at""",
        user_id,
        said.purpose,
        said.granted,
        said.source,
        said.policy_version,
        said.legal_basis,
        actor,
    )
    assert row is not None  # RETURNING gives the row
    await connection.execute(
        "UPDATE users SET version = version + 1, updated_at = statement_timestamp() WHERE user_id = $1", user_id
    )
    if not said.granted:
        await withdrawals.end_instances(connection, [(user_id, said.purpose.value)])
    return ConsentEntry(row["record_id"], said, actor, row["recorded_at"])


async def _lock_user(connection: Connection, user_id: str) -> None:
    """Lock the row, and look for an erasure in the statement after: it sees one that the lock waited for."""
    locked = await connection.fetchval("SELECT true FROM users WHERE user_id = $1 FOR UPDATE", user_id)
    if await connection.fetchval("SELECT wrapped IS NULL FROM data_keys WHERE subject = $1", user_id):
        raise UserErasedError
    if locked is None:
        raise UserNotFoundError


_ENTRY = "record_id, purpose, granted, source, policy_version, legal_basis, actor, recorded_at"


async def latest(connection: Connection, user_id: str) -> dict[Purpose, ConsentEntry]:
    """The last statement of a person about each purpose."""
    rows = await connection.fetch(
        f"""SELECT DISTINCT ON (purpose) {_ENTRY} FROM consent_history
             WHERE user_id = $1 ORDER BY purpose, record_id DESC""",
        user_id,
    )
    return {entry.statement.purpose: entry for entry in map(_entry, rows)}


async def history(connection: Connection, user_id: str, *, limit: int, after: int) -> list[ConsentEntry]:
    """Up to ``limit`` statements of a person, the oldest first, after a record id."""
    rows = await connection.fetch(
        f"""SELECT {_ENTRY} FROM consent_history
             WHERE user_id = $1 AND record_id > $2 ORDER BY record_id LIMIT $3""",
        user_id,
        after,
        limit,
    )
    return [_entry(row) for row in rows]


def _entry(row: asyncpg.Record) -> ConsentEntry:
    said = Statement(
        Purpose(row["purpose"]), row["granted"], row["source"], row["policy_version"], row["legal_basis"]
    )
    return ConsentEntry(row["record_id"], said, row["actor"], row["recorded_at"])
