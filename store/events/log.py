"""Consumers read the event log in order, from a cursor, without skipping an event.

A row is *settled* once every transaction with a lower id has ended (``xid < pg_snapshot_xmin``). Rows of earlier
generations are settled. Consumers read only settled rows: an open transaction may still commit rows that come
before the others. The horizon covers the whole cluster. A long write transaction in any of its databases delays
consumers, but loses no event.

Generations keep the order after a restore. A logical dump restores rows with their old transaction ids, and the
new cluster's own ids may be lower. New events would then come before those that consumers have read. So each
migration compares the current transaction id with the highest one in the log. If it is lower, a new generation
begins. Migrations run before the API and the workers start.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from asyncpg import Record
from sqlalchemy import Text, bindparam, cast, func, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.rules.folding import LogEvent, UnfoldableError
from models.rules.sharding import SHARDS, shard_of
from models.tables.events import Event, LogCursor, LogGeneration
from privacy.encryption import DataKey
from store.connection import Connection
from store.events.events import BODY
from store.statements import one_of, parameters, select, sql, statement

CHANNEL = "events_recorded"
"""Ingest notifies this channel after a commit."""


class CursorMovedError(Exception):
    """Another worker has moved the cursor: roll back."""


class Position(NamedTuple):
    """A place in a shard of the log; positions compare in log order."""

    generation: int
    xid: int
    sequence: int


BEGINNING = Position(0, 0, 0)

# LoggedEvent reads these columns by their position.
_LOGGED: list[Any] = [
    col(Event.generation),
    col(Event.xid),
    col(Event.sequence),
    col(Event.event_id),
    col(Event.user_id),
    col(Event.event_type),
    col(Event.timestamp),
    col(Event.session_id),
    col(Event.historical),
    col(Event.body),
    col(Event.received_at),
    col(Event.basis),
    cast(col(Event.dimensions), Text).label("dimensions"),  # the projector uses the text as a key
]


class LoggedEvent:
    """A row of the log, encrypted."""

    # A batch has thousands of these, so each column is read from the record only when it is used.
    __slots__ = ("_body", "_key", "_row")

    def __init__(self, row: Record) -> None:
        self._row = row
        self._key: DataKey | None = None
        self._body: Mapping[str, Any] | None = None

    @property
    def position(self) -> Position:
        return Position(*self._row[:3])

    @property
    def user_id(self) -> str:
        return str(self._row["user_id"])

    @property
    def event_type(self) -> str:
        return str(self._row["event_type"])

    def decrypted_with(self, key: DataKey | None) -> LogEvent:
        """The event for consumers. Its body is decrypted on first use, which needs a key."""
        self._key = key
        _, _, _, event_id, user_id, event_type, timestamp, session_id, historical, _, received_at, *last = (
            self._row
        )
        body = self._decrypted_body
        return LogEvent(event_id, user_id, event_type, timestamp, session_id, received_at, historical, body, *last)

    def _decrypted_body(self) -> Mapping[str, Any]:
        if self._body is None:
            assert self._key is not None  # an event without a key is set aside before its body is read
            body = self._key.decrypt_json(BODY, self._row["body"], self._row["event_id"])
            if not isinstance(body, Mapping):
                raise UnfoldableError("an event's body is an object")
            self._body = body
        return self._body


_NOTIFY = sql(f"NOTIFY {CHANNEL}")  # no SQLModel statement: a command without parameters


async def notify(connection: Connection) -> None:
    """Wake the consumers. Call it outside write transactions: NOTIFY serializes their commits."""
    await _NOTIFY.execute(connection)


_CURSOR = statement(
    select(col(LogCursor.generation), col(LogCursor.xid), col(LogCursor.sequence)).where(
        col(LogCursor.consumer) == bindparam("consumer"), col(LogCursor.shard) == bindparam("shard")
    )
)


async def cursor(connection: Connection, consumer: str, shard: int) -> Position:
    """The position of a consumer in a shard; :data:`BEGINNING` for a new consumer."""
    row = await _CURSOR.fetchrow(connection, consumer=consumer, shard=shard)
    return BEGINNING if row is None else Position(*row)


_PLACE = (col(Event.generation), col(Event.xid), col(Event.sequence))
_IN_SHARD_AFTER = (
    col(Event.shard) == bindparam("shard"),
    tuple_(*_PLACE) > tuple_(bindparam("generation"), bindparam("xid"), bindparam("sequence")),
)
_GENERATION = func.coalesce(select(col(LogGeneration.generation)).scalar_subquery(), 1)
_HORIZON = tuple_(_GENERATION, func.pg_snapshot_xmin(func.pg_current_snapshot()))
# The horizon bounds the index scan, so Postgres doesn't read rows that aren't settled.
_READ = statement(
    select(*_LOGGED)
    .where(*_IN_SHARD_AFTER, tuple_(col(Event.generation), col(Event.xid)) < _HORIZON)
    .order_by(*_PLACE)
    .limit(bindparam("limit"))
)


async def read(connection: Connection, shard: int, after: Position, limit: int) -> list[LoggedEvent]:
    """The next settled events after a position, in log order.

    Call it before the transaction writes: its own transaction id would hide later rows.
    """
    rows = await _READ.fetch(connection, shard=shard, limit=limit, **after._asdict())
    return [LoggedEvent(row) for row in rows]


_MORE = statement(select(select(text("1")).select_from(Event).where(*_IN_SHARD_AFTER).exists()))


async def more(connection: Connection, shard: int, after: Position) -> bool:
    """Whether there are committed events after a position, settled or not."""
    found: bool = await _MORE.fetchval(connection, shard=shard, **after._asdict())
    return found


_NEW_CURSOR = insert(LogCursor).values(parameters("consumer", "shard", "generation", "xid", "sequence"))
_MOVE = statement(
    _NEW_CURSOR.on_conflict_do_update(
        index_elements=["consumer", "shard"],
        set_={
            "generation": _NEW_CURSOR.excluded.generation,
            "xid": _NEW_CURSOR.excluded.xid,
            "sequence": _NEW_CURSOR.excluded.sequence,
            "moved_at": func.now(),
        },
        where=tuple_(col(LogCursor.generation), col(LogCursor.xid), col(LogCursor.sequence))
        == tuple_(bindparam("from_generation"), bindparam("from_xid"), bindparam("from_sequence")),
        # The commit doesn't wait for the disk. A crash loses the cursor and the effects together; the events
        # are on disk and are read again.
    ).returning(func.set_config("synchronous_commit", "off", True))
)


async def move(connection: Connection, consumer: str, shard: int, before: Position, to: Position) -> None:
    """Move a cursor in the transaction of the effects; raises :class:`CursorMovedError` if another worker has.

    Call it before the effects are written. A second worker on the shard waits here, then finds the cursor moved
    and has written nothing.
    """
    moved = await _MOVE.fetchval(
        connection,
        consumer=consumer,
        shard=shard,
        from_generation=before.generation,
        from_xid=before.xid,
        from_sequence=before.sequence,
        **to._asdict(),
    )
    if moved is None:
        raise CursorMovedError


_FIND = statement(
    select(*_LOGGED).where(
        col(Event.user_id) == bindparam("user_id"),
        col(Event.timestamp) == bindparam("timestamp"),
        col(Event.event_id) == bindparam("event_id"),
    )
)


async def find_event(
    connection: Connection, user_id: str, timestamp: datetime, event_id: str
) -> LoggedEvent | None:
    """One event; user and timestamp select its partition and index. None if retention has deleted it."""
    row = await _FIND.fetchrow(connection, user_id=user_id, timestamp=timestamp, event_id=event_id)
    return None if row is None else LoggedEvent(row)


_OF_USERS = statement(
    select(*_LOGGED).where(one_of(col(Event.user_id), "user_ids"), col(Event.timestamp) >= bindparam("since"))
)
_OF_TIMES = statement(
    select(*_LOGGED).where(col(Event.timestamp) >= bindparam("since"), col(Event.timestamp) < bindparam("until"))
)
_FETCHED = 2000


async def read_consumed(
    connection: Connection, consumer: str, user_ids: Sequence[str], since: datetime
) -> AsyncIterator[LoggedEvent]:
    """Users' events from a time on that a consumer has passed, in any order; fetched in parts."""
    # A comparison with the cursor in the statement would make Postgres scan whole shards by their log order.
    cursors = await _cursors(connection, consumer)
    async for row in _OF_USERS.cursor(connection, _FETCHED, user_ids=user_ids, since=since):
        each = LoggedEvent(row)
        if each.position <= cursors[shard_of(each.user_id)]:
            yield each


async def read_consumed_between(
    connection: Connection, consumer: str, since: datetime, until: datetime, count: int
) -> AsyncIterator[list[LoggedEvent]]:
    """All events between two times that a consumer has passed, in lists of at most ``count`` and in any order."""
    cursors = await _cursors(connection, consumer)
    found: list[LoggedEvent] = []
    async for row in _OF_TIMES.cursor(connection, _FETCHED, since=since, until=until):
        each = LoggedEvent(row)
        if each.position <= cursors[shard_of(each.user_id)]:
            found.append(each)
        if len(found) == count:
            yield found
            found = []
    if found:
        yield found


async def _cursors(connection: Connection, consumer: str) -> list[Position]:
    return [await cursor(connection, consumer, shard) for shard in range(SHARDS)]


_LOCK_GENERATION = statement(select(col(LogGeneration.generation)).with_for_update())
# SQL text: snapshot functions, and a LATERAL; the SQLModel statement is twice as long. Each shard's highest
# id is one index look-up. Cursors count too, since retention may have deleted the events with the highest ids.
_SETTLE_GENERATION = sql(
    """
    WITH highest AS (
        SELECT greatest(
            g.highest_xid,
            (SELECT max(c.xid) FROM log_cursors c WHERE c.generation = g.generation),
            (SELECT max(newest.xid)
               FROM generate_series(0, (SELECT max(shard) FROM events)) AS shards (shard),
                    LATERAL (SELECT e.xid FROM events e
                              WHERE e.shard = shards.shard AND e.generation = g.generation
                              ORDER BY e.xid DESC LIMIT 1) AS newest)) AS xid
        FROM log_generation g)
    UPDATE log_generation
    SET generation = generation + (pg_current_xact_id() < highest.xid)::integer,
        highest_xid = CASE WHEN pg_current_xact_id() < highest.xid THEN pg_current_xact_id()
                      ELSE greatest(highest.xid, pg_current_xact_id()) END
    FROM highest RETURNING generation
    """
)


async def settle_generation(connection: Connection) -> int:
    """Begin a new generation if this cluster's transaction ids are lower than the log's; returns the latest.

    Call it in a transaction, as the owner or the runtime role, while no process ingests. An ingest could read the
    old generation and commit later: consumers would miss its events.
    """
    await _LOCK_GENERATION.execute(connection)
    generation: int = await _SETTLE_GENERATION.fetchval(connection)
    return generation
