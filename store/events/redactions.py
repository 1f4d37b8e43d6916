"""Redactions: remove attributes that a person opted out of from the person's stored events, page by page.

The transaction of an opt-out calls :func:`request` and holds the consent bucket exclusively
(:mod:`store.consents.locks`). So when its row is visible, all events stored under the old preferences are visible
too. Later events are stored without the attribute. Events that were stored under a contract or a legal obligation
keep it. An event's key never changes, so one pass in the order of
(timestamp, event_id) reaches each event.

:func:`redact_page` is one transaction. It needs no lock of the bucket, since one statement reads the person's
current preferences and the events. An event that was stored after a new permission is visible only together with
that permission, and stays whole. The page computes everything before its first write, so it holds the log's
horizon back only briefly. Only `body` and `dimensions` of an event change, so its position in the log stays. A
consumer that hasn't read it yet reads either version.

Two workers may process one person. A page moves the position by compare-and-set before it changes events. The
second worker waits there for the first one's commit, and raises :class:`StaleRedactionError`. Each opt-out
replaces the token and resets the position. So a worker with the old token can neither move nor finish the pass.

The page also corrects the rollups, if the projector has counted an event with dimensions that go. The lock of
the shard keeps the projector away meanwhile: an event below its cursor is counted, unless it was set aside.

Lock order: the shard (:func:`store.rollups.deltas.exclude`), the person's row in `redactions`, then events. A page
waits only for the first two, and the holder of the row never waits for an event. If another transaction has locked
an event (retention deletes it), the page raises :class:`EventsLockedError` instead of waiting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy import BigInteger, Interval, bindparam, delete, func, null, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.audit import SYSTEM, AuditEntry
from models.rules.event_privacy import OptOuts, redact, redact_dimensions
from models.rules.folding import LogEvent, Projection
from models.rules.rollups import MINUS, Counted, counted
from models.rules.series import DIMENSION_VALUES
from models.rules.sharding import shard_of
from models.tables.events import Redaction
from models.temporal.system import PROJECTOR
from privacy.encryption import Cipher, DataKey, DecryptionError
from store.audit import entries
from store.connection import Connection, use_background_settings
from store.events.events import BODY
from store.rollups import deltas, series
from store.statements import select, sql, statement, unnested
from store.users import people

PAGE = 250
"""The most events that one transaction reads."""
BYTES = 1024 * 1024
"""One transaction reads encrypted bodies of at most this size, and up to one more body."""
ACTOR = "system:redaction"

# SQL text: LATERAL, and a window function over the page. `timestamp >=` repeats a part of the row comparison,
# since Postgres prunes partitions only by the former.
_READ = sql(
    """
    SELECT k.wrapped, u.privacy_preferences, e.timestamp, e.event_id, e.body, e.dimensions,
           e.event_type, e.session_id, CAST(e.dimensions AS text) AS written,
           (e.generation, e.xid, e.sequence) <= (c.generation, c.xid, c.sequence)
           AND e.event_id <> ALL (ARRAY(SELECT p.event_id FROM poison_events p
                                         WHERE p.user_id = :user_id AND p.status <> 'replayed')) AS counted
      FROM (VALUES (CAST(:user_id AS text))) AS w(user_id)
      LEFT JOIN data_keys k ON k.subject = w.user_id
      LEFT JOIN users u ON u.user_id = w.user_id
      LEFT JOIN LATERAL (
            SELECT timestamp, event_id, body, dimensions, event_type, session_id, shard, generation, xid, sequence
              FROM (
                   SELECT timestamp, event_id, body, dimensions, event_type, session_id,
                          shard, generation, xid, sequence,
                          sum(octet_length(body)) OVER (ORDER BY timestamp, event_id)
                          - octet_length(body) AS bytes_before
                     FROM events
                    WHERE user_id = :user_id AND basis = 'consent'
                      AND timestamp >= coalesce(CAST(:after_timestamp AS timestamptz), '-infinity')
                      AND (timestamp, event_id) > (coalesce(CAST(:after_timestamp AS timestamptz), '-infinity'),
                                                   coalesce(CAST(:after_event_id AS text), ''))
                    ORDER BY timestamp, event_id LIMIT :page) p
             WHERE bytes_before < :bytes) e ON true
      LEFT JOIN log_cursors c ON c.consumer = :projector AND c.shard = e.shard
     ORDER BY e.timestamp, e.event_id
    """
)
# SQL text: unnest in a CTE. SKIP LOCKED skips events that retention is deleting; the count shows it.
_WRITE = sql(
    """
    WITH fresh AS MATERIALIZED (
             SELECT f.timestamp, f.event_id, f.body, f.dimensions
               FROM unnest(CAST(:timestamps AS timestamptz[]), CAST(:event_ids AS text[]),
                           CAST(:bodies AS bytea[]), CAST(:dimensions AS jsonb[]))
                    AS f(timestamp, event_id, body, dimensions)),
         locked AS MATERIALIZED (
             SELECT f.timestamp, f.event_id, f.body, f.dimensions
               FROM events e JOIN fresh f USING (timestamp, event_id)
              WHERE e.user_id = :user_id AND e.timestamp BETWEEN :first AND :last
                FOR NO KEY UPDATE OF e SKIP LOCKED),
         written AS (
             UPDATE events e SET body = l.body, dimensions = l.dimensions FROM locked l
              WHERE e.user_id = :user_id AND e.timestamp BETWEEN :first AND :last
                AND e.timestamp = l.timestamp AND e.event_id = l.event_id RETURNING 1)
    SELECT count(*) FROM written
    """
)
_opted_out = unnested("opted_out", col(Redaction.user_id))
_insert = insert(Redaction).from_select(["user_id"], select(_opted_out.c.user_id))
_REQUEST = statement(
    _insert.on_conflict_do_update(
        index_elements=["user_id"],
        set_={
            **{name: _insert.excluded[name] for name in ("token", "requested_at", "due_at")},
            **{name: null() for name in ("after_timestamp", "after_event_id")},
        },
    )
)
_DUE = statement(
    select(
        *(col(Redaction.user_id), col(Redaction.token), col(Redaction.requested_at)),
        *(col(Redaction.after_timestamp), col(Redaction.after_event_id)),
    )
    .where(col(Redaction.due_at) <= func.clock_timestamp())
    .order_by(col(Redaction.due_at))
    .limit(bindparam("limit"))
)
_is_same = (col(Redaction.user_id) == bindparam("user_id"), col(Redaction.token) == bindparam("token"))
_is_unmoved = (
    *_is_same,
    col(Redaction.after_timestamp).is_not_distinct_from(bindparam("from_timestamp")),
    col(Redaction.after_event_id).is_not_distinct_from(bindparam("from_event_id")),
)
_POSTPONE = statement(
    update(Redaction).where(*_is_same).values(due_at=func.clock_timestamp() + bindparam("pause", type_=Interval))
)
_MOVE = statement(
    update(Redaction)
    .where(*_is_unmoved)
    .values(
        after_timestamp=bindparam("to_timestamp"),
        after_event_id=bindparam("to_event_id"),
        events_changed=col(Redaction.events_changed) + bindparam("changed", type_=BigInteger),
        due_at=func.clock_timestamp(),
    )
)
_FINISH = statement(delete(Redaction).where(*_is_unmoved).returning(col(Redaction.events_changed)))


class StaleRedactionError(Exception):
    """Another worker has moved this redaction, or an opt-out has reset it: roll back."""


class EventsLockedError(Exception):
    """Another transaction deletes or has deleted events of the page: roll back and read the page again."""


@dataclass(frozen=True)
class PendingRedaction:
    """A person's redaction, and the last processed event; None before the first page."""

    user_id: str
    token: UUID
    requested_at: datetime
    after_timestamp: datetime | None
    after_event_id: str | None

    @property
    def unmoved(self) -> dict[str, object]:
        """Parameters that match the row only if no other worker or opt-out has changed it."""
        return {
            "user_id": self.user_id,
            "token": self.token,
            "from_timestamp": self.after_timestamp,
            "from_event_id": self.after_event_id,
        }


@dataclass(frozen=True)
class _Redacted:
    """New values of an event."""

    timestamp: datetime
    event_id: str
    body: bytes
    dimensions: dict[str, Any] | None
    corrections: tuple[Counted, ...] = ()
    """What rollups subtract and add, if they have counted the event with other dimensions."""


async def request(connection: Connection, user_ids: Iterable[str]) -> None:
    """Request redactions, and restart pending ones.

    Lock order: call it after locking the profiles and before the bucket. It may wait for a page's commit.
    """
    opted_out = sorted(set(user_ids))
    if opted_out:
        await _REQUEST.execute(connection, user_id=opted_out)


async def request_for_partition(connection: Connection, partition: str) -> None:
    """Request redactions for people with an opt-out and events in a partition that is being attached again.

    Pages didn't see the detached partition. Call this as the owner, in the transaction of the ATTACH.
    """
    # Concurrent opt-outs and pages wait for this commit, and see the partition afterwards.
    await connection.execute("LOCK TABLE public.redactions IN SHARE ROW EXCLUSIVE MODE")
    # SQL text: the partition's name varies.
    await connection.execute(
        f"""INSERT INTO public.redactions (user_id)
            SELECT u.user_id FROM public.users u
             WHERE jsonb_path_exists(u.privacy_preferences, '$.* ? (@ == false)')
               AND EXISTS (SELECT FROM public.{partition} e WHERE e.user_id = u.user_id)
            ON CONFLICT (user_id) DO UPDATE
            SET token = excluded.token, requested_at = excluded.requested_at, due_at = excluded.due_at,
                after_timestamp = NULL, after_event_id = NULL"""
    )


async def due(connection: Connection, limit: int) -> list[PendingRedaction]:
    """Due redactions; first those with the longest wait since their request or last page."""
    return [PendingRedaction(**row) for row in await _DUE.fetch(connection, limit=limit)]


async def postpone(connection: Connection, pending: PendingRedaction, pause: timedelta) -> None:
    """Make a redaction due again after a pause."""
    await _POSTPONE.execute(connection, user_id=pending.user_id, token=pending.token, pause=pause)


async def redact_page(
    connection: Connection,
    cipher: Cipher,
    pending: PendingRedaction,
    dimension_values: int = DIMENSION_VALUES,
) -> None:
    """Redact the person's next events; the last page deletes the redaction.

    The redaction is also deleted if the person was erased or has no opt-out left. Raises
    :class:`StaleRedactionError`, :class:`EventsLockedError`, and :class:`DecryptionError` for a damaged data key.
    """
    # If a crash of Postgres loses the commit, it loses events and position together: the page is processed again.
    await use_background_settings(connection)
    # So that the cursor says which of the events the projector has counted, and with which dimensions.
    shard = shard_of(pending.user_id)
    await deltas.exclude(connection, shard)
    rows = await _READ.fetch(
        connection,
        user_id=pending.user_id,
        projector=PROJECTOR,
        after_timestamp=pending.after_timestamp,
        after_event_id=pending.after_event_id,
        page=PAGE,
        bytes=BYTES,
    )
    wrapped, preferences = rows[0]["wrapped"], rows[0]["privacy_preferences"]
    opt_outs = OptOuts.from_preferences(preferences)
    if wrapped is None or opt_outs is None:
        await _finish(connection, pending, 0)
        return
    key = cipher.unwrap(pending.user_id, wrapped)
    events = [row for row in rows if row["event_id"] is not None]
    redacted = [each for row in events if (each := _redacted(row, key, opt_outs)) is not None]
    corrections = [each for event in redacted for each in event.corrections]
    if corrections:
        _, known = await series.register(connection, [each.key for each in corrections], dimension_values)
        persons = await people.numbers(connection, [pending.user_id])
        await deltas.write(connection, shard, corrections, known, persons, datetime.now(UTC))
    if len(events) == PAGE or sum(len(row["body"]) for row in events) >= BYTES:
        await _move(connection, pending, events[-1], len(redacted))
        await _write(connection, pending.user_id, redacted)
    else:
        total = await _finish(connection, pending, len(redacted))
        await _write(connection, pending.user_id, redacted)
        await entries.append(connection, [_audit_entry(pending, preferences, total)])


def _redacted(row: asyncpg.Record, key: DataKey, opt_outs: OptOuts) -> _Redacted | None:
    """New values of an event; None if nothing changes."""
    dimensions: dict[str, Any] | None = row["dimensions"]
    kept = redact_dimensions(dimensions or {}, opt_outs)
    body = _redacted_body(row, key, opt_outs)
    if body is None and kept == dimensions:
        return None
    corrections = _corrections(row, key, kept) if row["counted"] and kept != dimensions else ()
    return _Redacted(row["timestamp"], row["event_id"], row["body"] if body is None else body, kept, corrections)


def _corrections(row: asyncpg.Record, key: DataKey, kept: Mapping[str, Any] | None) -> tuple[Counted, ...]:
    """What rollups subtract and add for an event that they have counted."""
    event = LogEvent(
        event_id=row["event_id"],
        user_id=key.subject,
        event_type=row["event_type"],
        timestamp=row["timestamp"],
        session_id=row["session_id"],
        received_at=row["timestamp"],
        historical=True,
        body=lambda: key.decrypt_json(BODY, row["body"], row["event_id"]),
        dimensions=row["written"],
    )
    projection = Projection()
    projection.add(event)  # it did so before, when it was counted
    [before] = counted([event], projection)
    after = before.key._replace(dimensions=orjson.dumps(kept).decode() if kept else None)
    return before._replace(flags=before.flags | MINUS), before._replace(key=after)


def _redacted_body(row: asyncpg.Record, key: DataKey, opt_outs: OptOuts) -> bytes | None:
    """The redacted body, encrypted; None if it stays, also if it can't be decrypted or isn't an object."""
    try:
        body = key.decrypt_json(BODY, row["body"], row["event_id"])
    except DecryptionError:
        return None
    if not isinstance(body, dict):
        return None
    kept = redact(body, opt_outs)
    return None if kept == body else key.encrypt(BODY, orjson.dumps(kept), row["event_id"])


async def _move(connection: Connection, pending: PendingRedaction, last: asyncpg.Record, changed: int) -> None:
    moved = await _MOVE.execute(
        connection,
        **pending.unmoved,
        to_timestamp=last["timestamp"],
        to_event_id=last["event_id"],
        changed=changed,
    )
    if not moved:
        raise StaleRedactionError


async def _finish(connection: Connection, pending: PendingRedaction, changed: int) -> int:
    """Delete the redaction; returns the total number of events that it changed."""
    before: int | None = await _FINISH.fetchval(connection, **pending.unmoved)
    if before is None:
        raise StaleRedactionError
    return before + changed


async def _write(connection: Connection, user_id: str, redacted: Sequence[_Redacted]) -> None:
    if not redacted:
        return
    written: int = await _WRITE.fetchval(
        connection,
        user_id=user_id,
        timestamps=[each.timestamp for each in redacted],
        event_ids=[each.event_id for each in redacted],
        bodies=[each.body for each in redacted],
        dimensions=[each.dimensions for each in redacted],
        first=redacted[0].timestamp,
        last=redacted[-1].timestamp,
    )
    if written < len(redacted):
        raise EventsLockedError


def _audit_entry(pending: PendingRedaction, preferences: dict[str, bool], changed: int) -> AuditEntry:
    return AuditEntry(
        actor=ACTOR,
        role=SYSTEM,
        action="events.strip",
        user_id=pending.user_id,
        fields=sorted(name for name, allowed in preferences.items() if allowed is False),
        details={"events": changed, "requested_at": pending.requested_at.isoformat()},
    )
