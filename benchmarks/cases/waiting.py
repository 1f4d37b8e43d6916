"""The cost of 50,000 instances that wait for months, while nothing happens.

They are started over HTTP, 32 at once, so that API, worker and Temporal hold all of them. At 75 to 150 a second
that takes six to eleven minutes; the whole case takes up to a quarter of an hour. ``--quick`` starts 500. The
worker's cache holds more than these, so its memory still grows.

Memory is sampled after each tenth. The first few hundred instances fill the worker's cache of workflows, so from
the first tenth on its memory must not grow. It rises and falls with the garbage collector, so the highest of the
later half is compared with the highest of the earlier half. The writes of Postgres are counted for a minute with
none waiting and for a minute with all: projectors, outbox and schedules run in both. Random instances are read
last.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from benchmarks.cases import starts
from benchmarks.http import Connection, connections
from benchmarks.measure import Burst, Figure, burst, in_turns, spread, until
from benchmarks.memory import resident
from benchmarks.stack import Stack
from models.temporal.identity import temporal_workflow_id

WORKFLOW = "patient"
COUNT = 50_000
_AT_ONCE = 32
_PARTS = 10
_ALL_WAIT_WITHIN = 300.0
_STATISTICS_SECONDS = 11.0
"""Idle connections of Postgres report their counts after ten seconds."""
_STATUS_TARGET_MS = 30.0
_GROWTH_TARGET = 1.1
_INSTANCE_TABLES = ("instances", "steps", "attempts", "event_waits")


@dataclass(frozen=True)
class Writes:
    """The writes of Postgres in some seconds."""

    seconds: float
    wal_bytes: int
    rows: dict[str, dict[str, int]]
    """Rows inserted, updated and deleted, of each table with any."""

    @property
    def wal_kib_a_minute(self) -> float:
        return round(self.wal_bytes / 1024 / self.seconds * 60, 1)

    @property
    def of_instances(self) -> int:
        """Rows written in the tables of instances."""
        return sum(sum(self.rows.get(table, {}).values()) for table in _INSTANCE_TABLES)


async def run(stack: Stack, *, quick: bool) -> list[Figure]:
    """Start the instances, count writes while they wait, and read some."""
    count, seconds = (500, 15.0) if quick else (COUNT, 60.0)
    owner = await asyncpg.connect(stack.owner_url)
    try:
        before = await _count_writes(owner, seconds)
        users = await stack.add_users("waiting", count)
        memory, ids, burst_rates = await _fill(stack, users)
        waiting = await _count_writes(owner, seconds)
    finally:
        await owner.close()
    memory.append(_memory(stack, count))
    ours, described = await _read(stack, ids, 200 if quick else 2_000)
    memory.append(_memory(stack, count))
    details = {
        "memory_mib": memory,
        "starts_per_second": burst_rates,
        "writes_with_none": vars(before),
        "writes_with_all": vars(waiting),
        "http": ours,
        "describe": described,
    }
    return _figures(count, memory, before, waiting, details)


async def _fill(stack: Stack, users: Sequence[str]) -> tuple[list[dict[str, float]], list[str], list[float]]:
    """Start one for each user; returns memory by tenth, the instances' ids, and the rates of starting."""
    memory, ids, rates = [_memory(stack, 0)], list[str](), list[float]()
    step = len(users) // _PARTS
    for begin in range(0, len(users), step):
        done = await _start(stack, users[begin : begin + step], ids)
        await until(lambda: _all_wait(stack, ids), _ALL_WAIT_WITHIN, "the instances did not reach their wait")
        rates.append(round(done.per_second, 1))
        memory.append(_memory(stack, len(ids)))
        print(f"  {len(ids):,} wait; {rates[-1]} started a second; MiB {memory[-1]}", flush=True)
    return memory, ids, rates


async def _start(stack: Stack, users: Sequence[str], ids: list[str]) -> Burst:
    async with connections(stack.url, stack.key, _AT_ONCE) as opened:

        def worker(connection: Connection) -> Callable[[str], Awaitable[None]]:
            async def one(user_id: str) -> None:
                ids.append(await starts.execute(connection, user_id, {}, WORKFLOW))

            return one

        return await burst(users, [worker(each) for each in opened])


async def _all_wait(stack: Stack, ids: Sequence[str]) -> bool:
    async with stack.database.connection() as connection:
        waiting = await connection.fetchval("SELECT count(*) FROM event_waits WHERE workflow_id = $1", WORKFLOW)
    return bool(waiting >= len(ids))


def _memory(stack: Stack, instances: int) -> dict[str, float]:
    parts = {name: pid for name, pid in stack.pids.items() if name != "postgres"}
    return {"instances": instances, **{name: round(resident(pid), 1) for name, pid in parts.items()}}


async def _count_writes(owner: asyncpg.Connection[asyncpg.Record], seconds: float) -> Writes:
    await asyncio.sleep(_STATISTICS_SECONDS)
    began, (lsn, rows) = time.perf_counter(), await _written(owner)
    await asyncio.sleep(max(seconds, _STATISTICS_SECONDS))
    lasted, (lsn_then, rows_then) = time.perf_counter() - began, await _written(owner)
    changed = {
        table: {what: value - rows.get(table, {}).get(what, 0) for what, value in counts.items()}
        for table, counts in rows_then.items()
    }
    return Writes(
        lasted, lsn_then - lsn, {table: counts for table, counts in changed.items() if any(counts.values())}
    )


async def _written(owner: asyncpg.Connection[asyncpg.Record]) -> tuple[int, dict[str, dict[str, int]]]:
    lsn = await owner.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
    rows = await owner.fetch("SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables")
    return int(lsn), {row[0]: {"inserted": row[1], "updated": row[2], "deleted": row[3]} for row in rows}


async def _read(stack: Stack, ids: Sequence[str], count: int) -> tuple[dict[str, float], dict[str, float]]:
    """Times of a GET and of a bare describe, of random instances."""
    chosen = random.Random(5)
    async with connections(stack.url, stack.key) as [connection]:

        async def over_http() -> None:
            await connection.get(f"/workflows/{WORKFLOW}/instances/{chosen.choice(ids)}")

        async def describe() -> None:
            await stack.temporal.get_workflow_handle(temporal_workflow_id(WORKFLOW, chosen.choice(ids))).describe()

        ours, described = await in_turns([over_http, describe], count)
    return spread(ours), spread(described)


def _figures(
    count: int, memory: Sequence[dict[str, float]], before: Writes, waiting: Writes, details: dict[str, Any]
) -> list[Figure]:
    parts = [_memory_figure(part, count, memory, details) for part in ("api", "worker", "temporal")]
    return [*parts, *_write_figures(before, waiting), _status_figure(count, details["http"], details["describe"])]


def _memory_figure(part: str, count: int, memory: Sequence[dict[str, float]], details: dict[str, Any]) -> Figure:
    half, ours = (len(memory) + 1) // 2, part != "temporal"
    first, last = (max(each[part] for each in some) for some in (memory[1:half], memory[half:]))
    return Figure(
        name=f"waiting: memory of {part}",
        what=f"highest resident, while from half of them to {count:,} wait and after some are read",
        value=last,
        unit="MiB",
        ceiling=first,
        ceiling_what=f"highest from {count // _PARTS:,} to half of them",
        target=f"≤ {_GROWTH_TARGET} times" if ours else "",
        reached=last <= _GROWTH_TARGET * first if ours else None,
        details=details if part == "api" else {},
    )


def _write_figures(before: Writes, waiting: Writes) -> list[Figure]:
    rows = Figure(
        name="waiting: rows",
        what=f"rows of {', '.join(_INSTANCE_TABLES)} written in {waiting.seconds:.0f} s while all wait",
        value=waiting.of_instances,
        unit="rows",
        ceiling=before.of_instances,
        ceiling_what="with none waiting",
        target="none",
        reached=waiting.of_instances == 0,
    )
    wal = Figure(
        name="waiting: WAL",
        what="written a minute while all wait",
        value=waiting.wal_kib_a_minute,
        unit="KiB",
        ceiling=before.wal_kib_a_minute,
        ceiling_what="with none waiting",
    )
    return [rows, wal]


def _status_figure(count: int, ours: dict[str, Any], described: dict[str, Any]) -> Figure:
    return Figure(
        name="waiting: status",
        what=f"GET of an instance among {count:,} that wait, at random, p99",
        value=ours["p99_ms"],
        unit="ms",
        ceiling=described["p99_ms"],
        ceiling_what="bare Temporal describe, p99",
        target=f"p99 < {_STATUS_TARGET_MS:.0f} ms",
        reached=ours["p99_ms"] < _STATUS_TARGET_MS,
    )
