"""The ceiling of ingest: COPY of the rows that it stored into tables of the same shape.

The rows are read beforehand in COPY's binary format, so that the client costs nothing. There are three ceilings,
the closest to ingest first:

- *batches*: events and their ids with all indexes, in one transaction per batch, on as many connections as ingest;
- *stream*: the events alone, with their indexes, by a single COPY;
- *heap*: the events alone, into a table without indexes, by a single COPY.
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
"""By the index of timelines, since events have none on the id alone."""
_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"


@dataclass(frozen=True)
class Rows:
    """The rows of a block of ingest in COPY's format: batch by batch, and all events in one piece."""

    batches: Sequence[tuple[bytes, bytes]]
    """The events and the ids of each batch."""
    stream: bytes
    count: int


class Copying:
    """Tables of the same shape as events and ids, and connections that fill them."""

    def __init__(self, opened: Sequence[asyncpg.Connection[asyncpg.Record]]) -> None:
        self._opened = opened

    async def rows_of(self, batches: Sequence[Sequence[Event]]) -> Rows:
        """Read the stored rows of some batches."""
        copied, stream = [], [_HEADER]
        for batch in batches:
            events = await self._read("events", _EVENTS, _OF_PEOPLE, batch)
            copied.append((events, await self._read("event_ids", _IDS, _BY_ID, batch)))
            stream.append(events.removeprefix(_HEADER).removesuffix(_TRAILER))
        return Rows(copied, b"".join([*stream, _TRAILER]), sum(map(len, batches)))

    async def batches_per_second(self, rows: Rows) -> float:
        """Events a second, batch by batch with their ids."""
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
        """Events a second by a single COPY, with the indexes or into a heap."""
        await self._empty()
        began = time.perf_counter()
        await _copy(self._opened[0], "copied_events" if indexes else "copied_heap", _EVENTS, rows.stream)
        return rows.count / (time.perf_counter() - began)

    async def _read(self, table: str, columns: Sequence[str], where: str, batch: Sequence[Event]) -> bytes:
        # Ingest stores a batch in the order of its ids.
        output = io.BytesIO()
        query = f"SELECT {', '.join(columns)} FROM {table} WHERE {where} ORDER BY event_id"
        keys = [(event["event_id"], event["user_id"], event["timestamp"]) for event in batch]
        ids, users, stamps = zip(*keys, strict=True)
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
    """Create the tables as the owner of the schema, and drop them when the block ends."""
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
