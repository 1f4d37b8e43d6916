"""The retention over a year of events, a twelfth of them expired, beside ingest.

The events are made up in SQL: rows, ids and sessions as ingest and projector leave them, behind the projector's
cursor. In turns: ingest alone, then the retention with ingest beside it, then ingest alone again; and at last the
ceiling, the same work by bare SQL on a month of the same size: `DETACH`, `DROP` and one `DELETE` each of its ids
and sessions, nothing else going on.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import asyncpg

from benchmarks.http import Connection, connections
from benchmarks.measure import Figure, until
from benchmarks.processor import processor_seconds, used
from benchmarks.stack import Stack
from models.rules.sharding import SHARDS
from models.temporal.projection import PROJECTOR
from runtime.embedded.home import Home
from runtime.embedded.postgres_roles import OWNER_ROLE
from store.events.partitions import month_start

_EVENTS = 5_000_000
_MONTHS = 12
_BATCH = 100
_SENDERS = 4
_PEOPLE = 200
_ALONE_SECONDS = 15.0
_PATIENCE_SECONDS = 600.0
_TARGET_SECONDS = 60.0
_TARGET_INGEST = 0.9
_BODY_BYTES = 160
"""About what a encrypted body of a page view has."""
_FILL = f"""
    WITH stored AS (
        INSERT INTO events (event_id, user_id, event_type, timestamp, session_id, shard, generation, historical,
                            body)
        SELECT md5($1 || n), 'r-' || n % 50000, 'engagement.page_view',
               $2::timestamptz + ($3::timestamptz - $2::timestamptz) * n / $4, 's-' || $1 || n / 8,
               n % {SHARDS}, 1, true, decode(repeat(md5(n::text), {_BODY_BYTES // 16}), 'hex')
          FROM generate_series(0, $4::bigint - 1) AS numbers (n)
        RETURNING event_id, user_id, session_id, timestamp),
         ids AS (INSERT INTO event_ids SELECT event_id, 0, timestamp FROM stored)
    INSERT INTO sessions SELECT min(user_id), session_id, min(timestamp), max(timestamp) FROM stored
    GROUP BY session_id"""
_READ = f"""
    INSERT INTO log_cursors (consumer, shard, generation, xid, sequence)
    SELECT '{PROJECTOR}', shard, 1, pg_current_xact_id(), 9000000000000000000
      FROM generate_series(0, {SHARDS - 1}) AS shards (shard)
    ON CONFLICT (consumer, shard) DO UPDATE SET xid = excluded.xid, sequence = excluded.sequence"""


@dataclass
class _Load:
    """Batches of events, as fast as a few senders get answers."""

    sent: int = 0
    slowest_ms: float = 0.0

    @asynccontextmanager
    async def running(self, stack: Stack) -> AsyncIterator[None]:
        """Send for as long as this is open."""
        over = asyncio.Event()
        async with connections(stack.url, stack.key, _SENDERS) as senders, asyncio.TaskGroup() as group:
            for connection in senders:
                group.create_task(self._send(connection, over))
            yield
            over.set()

    async def _send(self, connection: Connection, over: asyncio.Event) -> None:
        while not over.is_set():
            began = time.perf_counter()
            answer = await connection.request("POST", "/events/batch", {"events": _batch()})
            if answer.status != 202 or answer.json()["accepted"] != _BATCH:
                raise RuntimeError(f"events were not taken: {answer.status}")
            self.slowest_ms = max(self.slowest_ms, (time.perf_counter() - began) * 1000)
            self.sent += _BATCH


async def run(stack: Stack, *, quick: bool) -> list[Figure]:
    """How long the retention takes, and what it leaves of ingest."""
    total, alone_seconds = _EVENTS, _ALONE_SECONDS
    if quick:
        total, alone_seconds = total // 10, alone_seconds / 3
    await _people(stack)
    owner = await _owner(stack)
    try:
        spare = await _fill(owner, total)
        first = await _ingest_for(stack, alone_seconds)
        enforced = await _enforced(stack)
        last = await _ingest_for(stack, alone_seconds)
        bare = await _bare(owner, spare)
    finally:
        await owner.close()
    details = {
        "events": total,
        "went": enforced.results,
        "ingest_alone_per_second": [round(first.per_second), round(last.per_second)],
        "processor_ms_each": {
            "before": first.processor_ms_each,
            "beside": enforced.ingested.processor_ms_each,
            "after": last.processor_ms_each,
        },
        "slowest_batch_beside_ms": round(enforced.slowest_batch_ms, 1),
    }
    return [
        _took(enforced.ingested.seconds, bare, details),
        _left(enforced.ingested.per_second, (first.per_second + last.per_second) / 2, details),
    ]


def _took(seconds: float, bare: float, details: dict[str, object]) -> Figure:
    return Figure(
        name="retention",
        what=f"retention over {details['events']:,} events, a twelfth expired, ingest going on",
        value=round(seconds, 2),
        unit="s",
        ceiling=round(bare, 2),
        ceiling_what="DETACH, DROP and bare DELETEs of as many ids and sessions, idle",
        target=f"< {_TARGET_SECONDS:.0f} s",
        reached=seconds < _TARGET_SECONDS,
        details=details,
    )


def _left(beside: float, alone: float, details: dict[str, object]) -> Figure:
    return Figure(
        name="retention beside ingest",
        what="events ingested while the retention runs",
        value=round(beside, 1),
        unit="/s",
        ceiling=round(alone, 1),
        ceiling_what="the same without it, before and after",
        target=f">= {_TARGET_INGEST} of it",
        reached=beside >= _TARGET_INGEST * alone,
        details=details,
    )


async def _people(stack: Stack) -> None:
    """People who have consented, for ingest to speak of."""
    ids = await stack.add_users("ret", _PEOPLE)
    async with connections(stack.url, stack.key) as [connection]:
        for user_id in ids:
            await connection.request("PUT", f"/users/{user_id}/consents/data_collection", {"granted": True})


async def _owner(stack: Stack) -> asyncpg.Connection[asyncpg.Record]:
    """A connection of the role that owns the tables, as the worker has one."""
    parts = urlsplit(stack.database_url)
    return await asyncpg.connect(
        host=parts.hostname,
        port=parts.port,
        database=parts.path.lstrip("/"),
        user=OWNER_ROLE,
        password=Home(stack.home).secret("postgres-owner"),
    )


async def _fill(owner: asyncpg.Connection[asyncpg.Record], total: int) -> datetime:
    """Store the events, month by month; gives the begin of one that isn't expired, for the ceiling.

    A twelfth is expired: nine tenths of it a whole month, the rest the first part of the next.
    """
    cutoff = datetime.now(UTC) - timedelta(days=365)
    partly = month_start(cutoff)
    twelfth = total // _MONTHS
    part = twelfth // 10
    spans = [(_later(partly, -1), partly, twelfth - part), (partly, cutoff, part)]
    begins = _later(partly, 1)
    spans += [(_later(begins, n), _later(begins, n + 1), twelfth) for n in range(_MONTHS - 1)]
    for number, (since, ends, count) in enumerate(spans):
        await owner.fetchval("SELECT ensure_events_partition($1)", since.date())
        async with owner.transaction():
            await owner.execute(_FILL, f"{number}-", since, ends, count, timeout=600)
            await owner.execute(_READ)
    for table in ("events", "event_ids", "sessions"):
        await owner.execute(f"VACUUM (ANALYZE) {table}", timeout=600)
    return begins


def _later(month: datetime, count: int) -> datetime:
    number = month.year * 12 + month.month - 1 + count
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class _Ingested:
    """What was ingested in a while, and what each part of the stack used the processors for meanwhile."""

    seconds: float
    events: int
    processor_ms_each: dict[str, float]

    @property
    def per_second(self) -> float:
        """Events a second."""
        return self.events / self.seconds


@asynccontextmanager
async def _ingesting(stack: Stack, found: list[_Ingested]) -> AsyncIterator[_Load]:
    """Ingest for as long as this is open; what was ingested is added to ``found``."""
    load = _Load()
    async with load.running(stack):
        await asyncio.sleep(1)  # it finds its pace
        load.slowest_ms, sent = 0.0, load.sent
        before, began = processor_seconds(stack.pids), time.perf_counter()
        yield load
        seconds, events = time.perf_counter() - began, load.sent - sent
        spent = used(before, processor_seconds(stack.pids), max(events, 1))
    found.append(_Ingested(seconds, events, spent))


async def _ingest_for(stack: Stack, seconds: float) -> _Ingested:
    """Ingest with nothing else going on."""
    found: list[_Ingested] = []
    async with _ingesting(stack, found):
        await asyncio.sleep(seconds)
    return found[0]


@dataclass(frozen=True)
class _Enforced:
    """A run of the retention with ingest beside it."""

    ingested: _Ingested
    slowest_batch_ms: float
    results: dict[str, int]


async def _enforced(stack: Stack) -> _Enforced:
    found: list[_Ingested] = []
    async with connections(stack.url, stack.key) as [admin]:
        async with _ingesting(stack, found) as load:
            started = (await admin.request("POST", "/retention/run", {})).json()
            path = f"/retention/runs/{started['run_id']}"

            async def over() -> bool:
                await asyncio.sleep(0.5)  # to ask more often would be a load of its own
                return bool((await admin.get(path)).json()["status"] != "running")

            await until(over, _PATIENCE_SECONDS, "the retention")
        run = (await admin.get(path)).json()
    if run["status"] != "completed":
        raise RuntimeError(f"the run failed: {run['failed']}")
    results = {f"{each['part']} {each['action']}": each["rows"] for each in run["results"] if each["rows"]}
    return _Enforced(found[0], load.slowest_ms, results)


async def _bare(owner: asyncpg.Connection[asyncpg.Record], begins: datetime) -> float:
    """Seconds for a month's worth by bare SQL, each statement the largest it can be."""
    name, ends = f"events_{begins:%Y_%m}", _later(begins, 1)
    began = time.perf_counter()
    await owner.execute(f"ALTER TABLE events DETACH PARTITION {name} CONCURRENTLY")
    await owner.execute(f"DROP TABLE {name}")
    for table, column in (("event_ids", "timestamp"), ("sessions", "last_at")):
        await owner.execute(
            f"DELETE FROM {table} WHERE {column} >= $1 AND {column} < $2", begins, ends, timeout=600
        )
    return time.perf_counter() - began


def _batch() -> list[dict[str, object]]:
    now = datetime.now(UTC).isoformat()
    return [
        {
            "event_id": uuid.uuid4().hex,
            "user_id": f"ret-{number % _PEOPLE}",
            "event_type": "engagement.page_view",
            "timestamp": now,
            "session_id": f"s-{number}",
            "event_properties": {"page": "/pricing", "referrer": "newsletter"},
        }
        for number in range(_BATCH)
    ]
