"""Refusals: whose stored events still have to lose what the person has forbidden, and a page of them at a time.

:func:`ask` puts somebody on the list in the transaction that makes a preference false. That transaction closes
the gate of ingest (:mod:`store.consents.consents.locks`), so whoever sees its row sees every event that was stored under the
old preferences; those that are stored later are without what is forbidden. Keys of events never change, so one
pass over them, from the first to the last by (timestamp, event_id), misses none.

:func:`take_page` is one transaction. It reads what the person forbids **now**, and the events, in one statement:
an event that was stored after the attribute had been allowed again is only seen together with that, and stays
whole. No lock of the gate is needed for it, and nothing is written before all is computed, so the log's horizon is
held back for a few short statements. Of a row only `body` and `dimensions` change: its place in the log stays, and
a consumer that has not come to it reads the one or the other.

Two who work on one person are harmless. A page moves the position by compare-and-set before it changes events, so
the second waits there for the first, finds it moved and takes nothing. Each refusal gives the row a new token and
puts the position back: who began under an earlier one can neither move nor end the pass.

Lock order: a page holds one row of the list and the events that it changes. It waits for nobody but at the list's
row, for a transaction that never waits for an event's; of events that somebody holds (retention deletes them) it
takes none and tells, instead of waiting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from models.audit import SYSTEM, AuditEntry
from models.rules.event_privacy import Forbidden, dimensions_without, without
from privacy.encryption import Cipher, DataKey, DecryptionError
from store.audit import entries
from store.connection import Connection
from store.events.events import BODY

PAGE = 250
"""Events that one transaction goes through at most."""
BYTES = 1024 * 1024
"""Of encrypted bodies that it reads at most, up to one more."""
ACTOR = "system:redaction"

_READ = """
    SELECT k.wrapped, u.privacy_preferences, e.*
      FROM (VALUES ($1::text)) AS w(user_id)
      LEFT JOIN data_keys k ON k.subject = w.user_id
      LEFT JOIN users u ON u.user_id = w.user_id
      LEFT JOIN LATERAL (
            SELECT timestamp, event_id, body, dimensions FROM (
                   SELECT timestamp, event_id, body, dimensions,
                          sum(octet_length(body)) OVER (ORDER BY timestamp, event_id)
                          - octet_length(body) AS bytes_before
                     FROM events
                    WHERE user_id = $1 AND timestamp >= coalesce($2::timestamptz, '-infinity')
                      AND (timestamp, event_id) > (coalesce($2::timestamptz, '-infinity'), coalesce($3::text, ''))
                    ORDER BY timestamp, event_id LIMIT $4) p
             WHERE bytes_before < $5) e ON true
     ORDER BY e.timestamp, e.event_id
"""
_ANEW = """token = excluded.token, asked_at = excluded.asked_at, due_at = excluded.due_at,
           after_timestamp = NULL, after_event_id = NULL"""
_REFUSAL = """user_id = $1 AND token = $2
              AND (after_timestamp, after_event_id) IS NOT DISTINCT FROM ($3::timestamptz, $4::text)"""
_WRITE = """
    WITH fresh AS MATERIALIZED (
             SELECT * FROM unnest($2::timestamptz[], $3::text[], $4::bytea[], $5::jsonb[])
                        AS f(timestamp, event_id, body, dimensions)),
         held AS MATERIALIZED (
             SELECT f.* FROM events e JOIN fresh f USING (timestamp, event_id)
              WHERE e.user_id = $1 AND e.timestamp BETWEEN $6 AND $7
                FOR NO KEY UPDATE OF e SKIP LOCKED),
         written AS (
             UPDATE events e SET body = h.body, dimensions = h.dimensions FROM held h
              WHERE e.user_id = $1 AND e.timestamp BETWEEN $6 AND $7
                AND e.timestamp = h.timestamp AND e.event_id = h.event_id RETURNING 1)
    SELECT count(*) FROM written
"""


class OvertakenError(Exception):
    """Another worker has gone on with this refusal, or the person has refused more: nothing of it may stay."""


class EventsHeldError(Exception):
    """Events of the page are being deleted, or have just been: nothing of it may stay, and it is read again."""


@dataclass(frozen=True)
class Refusal:
    """Somebody's place on the list, and how far the pass over the person's events has come."""

    user_id: str
    token: UUID
    after: tuple[datetime | None, str | None]
    asked_at: datetime


@dataclass(frozen=True)
class _Changed:
    """What is to be written of an event."""

    timestamp: datetime
    event_id: str
    body: bytes
    dimensions: dict[str, Any] | None


async def ask(connection: Connection, user_ids: Iterable[str]) -> None:
    """Put people on the list, or begin anew with those who are on it.

    To be called with their profiles locked, and before the gate is closed: it may wait for a page to be committed.
    """
    asking = sorted(set(user_ids))
    if asking:
        await connection.execute(
            f"""INSERT INTO redactions AS r (user_id) SELECT * FROM unnest($1::text[])
                ON CONFLICT (user_id) DO UPDATE SET {_ANEW}""",
            asking,
        )


async def ask_again(connection: Connection, partition: str) -> None:
    """Put everybody on the list who refuses something and has events in a partition that comes back to the log.

    For the owner, in the transaction that brings it back: passes were made while nobody saw it. Who refuses at the
    same time waits at the lock for its commit, as does a page; so each sees the partition, or is seen here.
    """
    await connection.execute("LOCK TABLE public.refusals IN SHARE ROW EXCLUSIVE MODE")
    await connection.execute(
        f"""INSERT INTO public.redactions AS r (user_id)
            SELECT u.user_id FROM public.users u
             WHERE jsonb_path_exists(u.privacy_preferences, '$.* ? (@ == false)')
               AND EXISTS (SELECT FROM public.{partition} e WHERE e.user_id = u.user_id)
            ON CONFLICT (user_id) DO UPDATE SET {_ANEW}"""
    )


async def due(connection: Connection, limit: int) -> list[Refusal]:
    """Whose turn it is: those first who have waited longest since they were asked, or had their last page."""
    rows = await connection.fetch(
        """SELECT user_id, token, after_timestamp, after_event_id, asked_at FROM redactions
            WHERE due_at <= clock_timestamp() ORDER BY due_at LIMIT $1""",
        limit,
    )
    return [
        Refusal(
            row["user_id"], row["token"], (row["after_timestamp"], row["after_event_id"]), asked_at=row["asked_at"]
        )
        for row in rows
    ]


async def postpone(connection: Connection, refusal: Refusal, pause: timedelta) -> None:
    """Let others have their turn for a while."""
    await connection.execute(
        "UPDATE redactions SET due_at = clock_timestamp() + $3::interval WHERE user_id = $1 AND token = $2",
        refusal.user_id,
        refusal.token,
        pause,
    )


async def take_page(connection: Connection, cipher: Cipher, refusal: Refusal) -> None:
    """Take what is forbidden out of the person's next events; after the last the person leaves the list.

    So does who has been erased, or forbids nothing any more. Raises :class:`OvertakenError` or :class:`EventsHeldError`, and
    :class:`DecryptionError` where the person's key doesn't open.
    """
    await _plan_for_the_page(connection)
    rows = await connection.fetch(_READ, refusal.user_id, *refusal.after, PAGE, BYTES)
    wrapped, preferences = rows[0]["wrapped"], rows[0]["privacy_preferences"]
    forbidden = Forbidden.by(preferences)
    if wrapped is None or forbidden is None:
        await _end(connection, refusal, 0)
        return
    key = cipher.unwrap(refusal.user_id, wrapped)
    events = [row for row in rows if row["event_id"] is not None]
    changed = [each for row in events if (each := _stripped(row, key, forbidden)) is not None]
    if len(events) == PAGE or sum(len(row["body"]) for row in events) >= BYTES:
        await _move(connection, refusal, events[-1], len(changed))
        await _write(connection, refusal.user_id, changed)
    else:
        in_all = await _end(connection, refusal, len(changed))
        await _write(connection, refusal.user_id, changed)
        await entries.append(connection, [_audited(refusal, preferences, in_all)])


async def _plan_for_the_page(connection: Connection) -> None:
    """For the present transaction: plans that know the position, and a commit that doesn't wait for the disk.

    A crash of Postgres that forgets the commit forgets events and position together; the page is taken again.
    """
    await connection.execute(
        """SELECT set_config('plan_cache_mode', 'force_custom_plan', true),
                  set_config('synchronous_commit', 'off', true)"""
    )


def _stripped(row: asyncpg.Record, key: DataKey, forbidden: Forbidden) -> _Changed | None:
    """What of an event changes; None where nothing does."""
    dimensions: dict[str, Any] | None = row["dimensions"]
    fewer = dimensions_without(dimensions or {}, forbidden)
    body = _body_without(row["body"], key, forbidden)
    if body is None and fewer == dimensions:
        return None
    return _Changed(row["timestamp"], row["event_id"], row["body"] if body is None else body, fewer)


def _body_without(encrypted: bytes, key: DataKey, forbidden: Forbidden) -> bytes | None:
    """A body encrypted anew; None where it stays as it is: also one that nobody can open, or that is none."""
    try:
        body = key.decrypt_json(BODY, encrypted)
    except DecryptionError:
        return None
    if not isinstance(body, dict):
        return None
    left = without(body, forbidden)
    return None if left == body else key.encrypt(BODY, orjson.dumps(left))


async def _move(connection: Connection, refusal: Refusal, last: asyncpg.Record, changed: int) -> None:
    moved = await connection.fetchval(
        f"""UPDATE redactions SET after_timestamp = $5, after_event_id = $6, changed = changed + $7,
                   due_at = clock_timestamp() WHERE {_REFUSAL} RETURNING true""",
        refusal.user_id,
        refusal.token,
        *refusal.after,
        last["timestamp"],
        last["event_id"],
        changed,
    )
    if not moved:
        raise OvertakenError


async def _end(connection: Connection, refusal: Refusal, changed: int) -> int:
    """Take the person off the list; how many events were changed in all."""
    before: int | None = await connection.fetchval(
        f"DELETE FROM redactions WHERE {_REFUSAL} RETURNING changed",
        refusal.user_id,
        refusal.token,
        *refusal.after,
    )
    if before is None:
        raise OvertakenError
    return before + changed


async def _write(connection: Connection, user_id: str, changed: Sequence[_Changed]) -> None:
    if not changed:
        return
    written: int = await connection.fetchval(
        _WRITE,
        user_id,
        [each.timestamp for each in changed],
        [each.event_id for each in changed],
        [each.body for each in changed],
        [each.dimensions for each in changed],
        changed[0].timestamp,
        changed[-1].timestamp,
    )
    if written < len(changed):
        raise EventsHeldError


def _audited(refusal: Refusal, preferences: dict[str, bool], changed: int) -> AuditEntry:
    return AuditEntry(
        actor=ACTOR,
        role=SYSTEM,
        action="events.strip",
        user_id=refusal.user_id,
        fields=sorted(name for name, allowed in preferences.items() if allowed is False),
        details={"events": changed, "asked_at": refusal.asked_at.isoformat()},
    )
