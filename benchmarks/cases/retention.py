"""A retention run over a year of events, a twelfth of them expired, during ingest.

The events are generated in SQL: rows, ids and sessions as ingest and projector leave them, behind the projector's
cursor. Ingest runs alone, then during the retention run, then alone again. The ceiling is the same work in plain
SQL for a partition of the same size, on an idle stack: `DETACH`, `DROP`, a `DELETE` of ids and one of sessions.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from benchmarks.http import Connection, connections
from benchmarks.measure import Figure, until
from benchmarks.processor import processor_seconds, used
from benchmarks.stack import Stack
from models.rules.sharding import SHARDS
from models.temporal.system import PROJECTOR
from store.events.partitions import month_start

_EVENTS = 5_000_000
_MONTHS = 12
_BATCH = 100
_SENDERS = 4
PEOPLE = 200
ALONE_SECONDS = 15.0
_PATIENCE_SECONDS = 600.0
_TARGET_SECONDS = 60.0
_TARGET_INGEST = 0.9
_BODY_BYTES = 160
"""About the size of an encrypted body of a page view."""
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
class Load:
    """Batches of events, sent on a few connections as fast as the API responds."""

    sent: int = 0
    slowest_ms: float = 0.0

    @asynccontextmanager
    async def running(self, stack: Stack) -> AsyncIterator[None]:
        """Send until the block ends."""
        over = asyncio.Event()
        async with connections(stack.url, stack.key, _SENDERS) as senders, asyncio.TaskGroup() as group:
            for connection in senders:
                group.create_task(self._send(connection, over))
            yield
            over.set()

    async def _send(self, connection: Connection, over: asyncio.Event) -> None:
        while not over.is_set():
            began = time.perf_counter()
            response = await connection.request("POST", "/events/batch", {"events": _batch()})
            if response.status != 202 or response.json()["accepted"] != _BATCH:
                raise RuntimeError(f"events were not accepted: {response.status}")
            self.slowest_ms = max(self.slowest_ms, (time.perf_counter() - began) * 1000)
            self.sent += _BATCH


async def run(stack: Stack, *, quick: bool) -> list[Figure]:
    """Measure the seconds of the run, and the rate of ingest during it."""
    total, alone_seconds = _EVENTS, ALONE_SECONDS
    if quick:
        total, alone_seconds = total // 10, alone_seconds / 3
    await stack.add_users("ret", PEOPLE, consents={"data_collection": True})
    owner = await asyncpg.connect(stack.owner_url)
    try:
        spare = await _fill(owner, total)
        first = await ingest_for(stack, alone_seconds)
        enforced = await _enforced(stack)
        last = await ingest_for(stack, alone_seconds)
        bare = await _bare(owner, spare)
    finally:
        await owner.close()
    details = {
        "events": total,
        "removed": enforced.results,
        "ingest_alone_per_second": [round(first.per_second), round(last.per_second)],
        "processor_ms_each": {
            "before": first.processor_ms_each,
            "during": enforced.ingested.processor_ms_each,
            "after": last.processor_ms_each,
        },
        "slowest_batch_during_ms": round(enforced.slowest_batch_ms, 1),
    }
    return [
        _run_figure(enforced.ingested.seconds, bare, details),
        _ingest_figure(enforced.ingested.per_second, (first.per_second + last.per_second) / 2, details),
    ]


def _run_figure(seconds: float, bare: float, details: dict[str, object]) -> Figure:
    return Figure(
        name="retention",
        what=f"retention run over {details['events']:,} events, a twelfth expired, during ingest",
        value=round(seconds, 2),
        unit="s",
        ceiling=round(bare, 2),
        ceiling_what="DETACH, DROP and plain DELETEs of as many ids and sessions, idle",
        target=f"< {_TARGET_SECONDS:.0f} s",
        reached=seconds < _TARGET_SECONDS,
        details=details,
    )


def _ingest_figure(during: float, alone: float, details: dict[str, object]) -> Figure:
    return Figure(
        name="ingest during retention",
        what="events ingested during the retention run",
        value=round(during, 1),
        unit="/s",
        ceiling=round(alone, 1),
        ceiling_what="the same without it, before and after",
        target=f">= {_TARGET_INGEST} of it",
        reached=during >= _TARGET_INGEST * alone,
        details=details,
    )


async def _fill(owner: asyncpg.Connection[asyncpg.Record], total: int) -> datetime:
    """Store the events by month; returns the start of a month that has not expired, for the ceiling.

    A twelfth has expired: nine tenths of it fill a whole month, the rest the first part of the next.
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
class Ingested:
    """Events ingested in some seconds, and processor time per event by part of the stack."""

    seconds: float
    events: int
    processor_ms_each: dict[str, float]

    @property
    def per_second(self) -> float:
        return self.events / self.seconds


@asynccontextmanager
async def ingesting(stack: Stack, found: list[Ingested]) -> AsyncIterator[Load]:
    """Ingest until the block ends; appends the result to ``found``."""
    load = Load()
    async with load.running(stack):
        await asyncio.sleep(1)  # the connections warm up
        load.slowest_ms, sent = 0.0, load.sent
        before, began = processor_seconds(stack.pids), time.perf_counter()
        yield load
        seconds, events = time.perf_counter() - began, load.sent - sent
        spent = used(before, processor_seconds(stack.pids), max(events, 1))
    found.append(Ingested(seconds, events, spent))


async def ingest_for(stack: Stack, seconds: float) -> Ingested:
    """Ingest on an idle stack."""
    found: list[Ingested] = []
    async with ingesting(stack, found):
        await asyncio.sleep(seconds)
    return found[0]


@dataclass(frozen=True)
class _Enforced:
    """A retention run during ingest."""

    ingested: Ingested
    slowest_batch_ms: float
    results: dict[str, int]


async def _enforced(stack: Stack) -> _Enforced:
    found: list[Ingested] = []
    async with connections(stack.url, stack.key) as [admin]:
        async with ingesting(stack, found) as load:
            started = (await admin.request("POST", "/retention/run", {})).json()
            path = f"/retention/runs/{started['run_id']}"

            async def over() -> bool:
                await asyncio.sleep(0.5)  # more frequent requests would add load
                return bool((await admin.get(path)).json()["status"] != "running")

            await until(over, _PATIENCE_SECONDS, "the retention run did not end")
        run = (await admin.get(path)).json()
    if run["status"] != "completed":
        raise RuntimeError(f"the run failed: {run['failed']}")
    results = {f"{each['part']} {each['action']}": each["rows"] for each in run["results"] if each["rows"]}
    return _Enforced(found[0], load.slowest_ms, results)


async def _bare(owner: asyncpg.Connection[asyncpg.Record], begins: datetime) -> float:
    """Seconds for a month by plain SQL, in as few statements as possible."""
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
            "user_id": f"ret-{number % PEOPLE}",
            "event_type": "engagement.page_view",
            "timestamp": now,
            "session_id": f"s-{number}",
            "event_properties": {"page": "/pricing", "referrer": "newsletter"},
        }
        for number in range(_BATCH)
    ]
