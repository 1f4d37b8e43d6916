"""The event log as its consumers read it: in order, from a cursor, and nothing is ever skipped.

A row is *settled* once every transaction below its own has ended (``xid < pg_snapshot_xmin``), or where it is
of an earlier generation of the log. Only settled rows are read, since an open transaction may still put rows
before the others. The horizon is that of the whole cluster: a long write transaction in any of its databases
delays consumers, and loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg

from models.rules.folding import FoldedEvent, UnfoldableError
from privacy.encryption import DataKey
from store.connection import Connection
from store.events.events import BODY

CHANNEL = "events_recorded"
"""What ingest notifies when events have been committed."""

_ROW = """generation, xid, sequence, event_id, user_id, event_type, timestamp, session_id, historical, body,
          received_at"""
"""What a :class:`LoggedEvent` is made of, in its order."""


class CursorMovedError(Exception):
    """Another worker has moved the cursor in the meantime: nothing of this transaction may stay."""


class Position(NamedTuple):
    """A place in a shard of the log; positions compare in log order."""

    generation: int
    xid: int
    sequence: int


BEGINNING = Position(0, 0, 0)


class LoggedEvent:
    """A row of the log, encrypted. There is one for each event of a batch, so it takes only what is asked for."""

    __slots__ = ("_key", "_opened", "_row")

    def __init__(self, row: asyncpg.Record) -> None:
        self._row = row
        self._key: DataKey | None = None
        self._opened: Mapping[str, Any] | None = None

    @property
    def position(self) -> Position:
        """Where it stands."""
        return Position(*self._row[:3])

    @property
    def user_id(self) -> str:
        """Whose event it is."""
        return str(self._row["user_id"])

    @property
    def event_type(self) -> str:
        """What kind of event it is."""
        return str(self._row["event_type"])

    def opened_with(self, key: DataKey | None) -> FoldedEvent:
        """The event for its consumers; its body is opened on use, once. Without a key nobody may use it."""
        self._key = key
        _, _, _, event_id, user_id, event_type, timestamp, session_id, historical, _, received_at = self._row
        return FoldedEvent(
            event_id, user_id, event_type, timestamp, session_id, received_at, historical, self._body
        )

    def _body(self) -> Mapping[str, Any]:
        if self._opened is None:
            assert self._key is not None  # it is given where this method is handed out
            opened = self._key.decrypt_json(BODY, self._row["body"])
            if not isinstance(opened, Mapping):
                raise UnfoldableError("an event's body is an object")
            self._opened = opened
        return self._opened


async def announce(connection: Connection) -> None:
    """Wake consumers. Not in a transaction that writes: NOTIFY lets those commit only one after the other."""
    await connection.execute(f"NOTIFY {CHANNEL}")


async def cursor(connection: Connection, consumer: str, shard: int) -> Position:
    """Where a consumer stands in a shard; a new one stands before everything."""
    row = await connection.fetchrow(
        "SELECT generation, xid, sequence FROM log_cursors WHERE consumer = $1 AND shard = $2", consumer, shard
    )
    return BEGINNING if row is None else Position(*row)


async def read(connection: Connection, shard: int, after: Position, limit: int) -> list[LoggedEvent]:
    """The next settled events after a position, in log order.

    Call it before the transaction writes anything: its own transaction id would hide later rows. The horizon is a
    bound of the index: however many rows wait behind an open transaction, none of them is looked at.
    """
    rows = await connection.fetch(
        f"""SELECT {_ROW} FROM events
             WHERE shard = $1 AND (generation, xid, sequence) > ($2, $3, $4)
               AND (generation, xid) < (coalesce((SELECT generation FROM log_generation), 1),
                                        pg_snapshot_xmin(pg_current_snapshot()))
             ORDER BY generation, xid, sequence LIMIT $5""",
        shard,
        *after,
        limit,
    )
    return [LoggedEvent(row) for row in rows]


async def more(connection: Connection, shard: int, after: Position) -> bool:
    """Whether there are committed events after a position, settled or not."""
    found: bool = await connection.fetchval(
        """SELECT EXISTS (SELECT FROM events
                           WHERE shard = $1 AND (generation, xid, sequence) > ($2, $3, $4))""",
        shard,
        *after,
    )
    return found


async def move(connection: Connection, consumer: str, shard: int, before: Position, to: Position) -> None:
    """Move a cursor, in the transaction of the effects; raises :class:`CursorMovedError` where another was faster.

    To be called before the effects are written: of two workers on one shard the second then waits here, and
    finds that it has nothing to do. The commit doesn't wait for the disk: a crash forgets effects and move
    together, and the events are there to be read again.
    """
    moved = await connection.fetchval(
        """INSERT INTO log_cursors AS c (consumer, shard, generation, xid, sequence)
           VALUES ($1, $2, $6, $7, $8)
           ON CONFLICT (consumer, shard) DO UPDATE
           SET generation = excluded.generation, xid = excluded.xid, sequence = excluded.sequence, moved_at = now()
           WHERE (c.generation, c.xid, c.sequence) = ($3, $4, $5)
           RETURNING set_config('synchronous_commit', 'off', true)""",
        consumer,
        shard,
        *before,
        *to,
    )
    if moved is None:
        raise CursorMovedError


async def find_event(
    connection: Connection, user_id: str, timestamp: datetime, event_id: str
) -> LoggedEvent | None:
    """One event by its id; user and timestamp say where to look. None where retention has taken it."""
    row = await connection.fetchrow(
        f"""SELECT {_ROW} FROM events
             WHERE user_id = $1 AND timestamp = $2 AND event_id = $3""",
        user_id,
        timestamp,
        event_id,
    )
    return None if row is None else LoggedEvent(row)
