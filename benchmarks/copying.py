"""The ceiling of ingest: the rows that it stored, put once more into tables of the same shape by COPY alone.

The rows are taken out of the log and the ids beforehand, in COPY's own binary form, so that the client costs
nothing. Three ways, from what ingest could be at most to what the server could do at most:

- *batches*: what ingest leaves behind (events and their ids, with all indexes), in a transaction for each batch,
  on as many connections as the load has;
- *stream*: the events alone, with their indexes, by a single COPY;
- *heap*: the events alone, into a table without any index, by a single COPY.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import asyncpg

from benchmarks.events import CONNECTIONS, Event
from benchmarks.stack import Stack

_EVENTS = (
    *("event_id", "user_id", "event_type", "timestamp", "session_id"),
    *("shard", "generation", "historical", "body", "dimensions"),
)
_IDS = ("event_id", "fingerprint", "timestamp")
_BY_ID = "event_id = ANY($1::text[]) AND cardinality($2::text[]) = cardinality($3::text[])"
_OF_PEOPLE = """(user_id, timestamp, event_id) IN (
    SELECT user_id, stamp::timestamptz, id
      FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted(id, user_id, stamp))"""
"""By the index that timelines have: none leads from an id alone to an event."""
_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"


@dataclass(frozen=True)
class Rows:
    """What a round of ingest has stored, ready to be copied: batch by batch, and the events in one piece."""

    batches: Sequence[tuple[bytes, bytes]]
    """Of each batch its events and its ids."""
    stream: bytes
    count: int


class Copying:
    """Tables of the same shape, and connections to fill them."""

    def __init__(self, opened: Sequence[asyncpg.Connection[asyncpg.Record]]) -> None:
        self._opened = opened

    async def rows_of(self, batches: Sequence[Sequence[Event]]) -> Rows:
        """Take out what was stored of some batches."""
        taken, stream = [], [_HEADER]
        for batch in batches:
            events = await self._take("events", _EVENTS, _OF_PEOPLE, batch)
            taken.append((events, await self._take("event_ids", _IDS, _BY_ID, batch)))
            stream.append(events.removeprefix(_HEADER).removesuffix(_TRAILER))
        return Rows(taken, b"".join([*stream, _TRAILER]), sum(map(len, batches)))

    async def batches_per_second(self, rows: Rows) -> float:
        """Rows of events a second, batch by batch with their ids."""
        await self._empty()
        pending = iter(rows.batches)

        async def fill(connection: asyncpg.Connection[asyncpg.Record]) -> None:
            for events, ids in pending:
                async with connection.transaction():
                    await _copy(connection, "copied_ids", _IDS, ids)
                    await _copy(connection, "copied_events", _EVENTS, events)

        began = time.perf_counter()
        await asyncio.gather(*(fill(one) for one in self._opened))
        return rows.count / (time.perf_counter() - began)

    async def stream_per_second(self, rows: Rows, *, indexes: bool = True) -> float:
        """Rows of events a second by a single COPY, with the indexes or into a heap."""
        await self._empty()
        began = time.perf_counter()
        await _copy(self._opened[0], "copied_events" if indexes else "copied_heap", _EVENTS, rows.stream)
        return rows.count / (time.perf_counter() - began)

    async def _take(self, table: str, columns: Sequence[str], where: str, batch: Sequence[Event]) -> bytes:
        """In the order in which they were stored, which is that of their ids."""
        output = io.BytesIO()
        query = f"SELECT {', '.join(columns)} FROM {table} WHERE {where} ORDER BY event_id"
        place = [(event["event_id"], event["user_id"], event["timestamp"]) for event in batch]
        ids, users, stamps = zip(*place, strict=True)
        await self._opened[0].copy_from_query(query, ids, users, stamps, output=output, format="binary")
        return output.getvalue()

    async def _empty(self) -> None:
        await self._opened[0].execute("TRUNCATE copied_events, copied_ids, copied_heap")


async def _copy(
    connection: asyncpg.Connection[asyncpg.Record], table: str, columns: Sequence[str], rows: bytes
) -> None:
    await connection.copy_to_table(table, source=io.BytesIO(rows), columns=list(columns), format="binary")


@asynccontextmanager
async def copying(stack: Stack) -> AsyncIterator[Copying]:
    """Make the tables, as the owner; on leaving, drop them. The projector doesn't see what is in them."""
    async with AsyncExitStack() as leaving:
        opened = []
        for _ in range(CONNECTIONS):
            opened.append(await asyncpg.connect(stack.owner_url))
            leaving.push_async_callback(opened[-1].close)
        await opened[0].execute(
            """CREATE TABLE copied_events (LIKE events INCLUDING ALL);
               CREATE TABLE copied_ids (LIKE event_ids INCLUDING ALL);
               CREATE TABLE copied_heap (LIKE events INCLUDING DEFAULTS INCLUDING STORAGE)"""
        )
        leaving.push_async_callback(opened[0].execute, "DROP TABLE copied_events, copied_ids, copied_heap")
        yield Copying(opened)
