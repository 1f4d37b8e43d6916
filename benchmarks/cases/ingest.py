"""Ingest: batches of 500 against COPY of the same rows, and single events against one-row inserts."""

from __future__ import annotations

import asyncio
import statistics
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import asyncpg

from benchmarks.copying import Copying, copying
from benchmarks.events import BATCH, CONNECTIONS, Crowd, Event, crowd, projected, send_batches, send_one, senders
from benchmarks.http import Connection
from benchmarks.measure import Burst, Figure, burst, spread
from benchmarks.processor import processor_seconds, used
from benchmarks.stack import Stack

_TARGET = 0.3
_SINGLE_CONNECTIONS = 64
_SINGLE_TARGET = 1500.0


@dataclass(frozen=True)
class Pair:
    """A block of ingest, and the rates of COPY for the same rows."""

    sent: Burst
    batches: float
    stream: float
    heap: float
    processor: dict[str, float]

    @property
    def rate(self) -> float:
        return self.sent.count * BATCH / self.sent.seconds

    @property
    def ratio(self) -> float:
        """The share of COPY batch by batch."""
        return self.rate / self.batches


async def batches(stack: Stack, *, quick: bool) -> list[Figure]:
    """Blocks in turns with their ceiling, which waits until the projector has read the block."""
    pairs = 2 if quick else 6
    people = await crowd(stack, "ingest")
    async with copying(stack) as copies, senders(stack) as opened:
        await measure_pair(stack, people, copies, opened)  # the first warms up
        measured = [await measure_pair(stack, people, copies, opened) for _ in range(pairs)]
    return [_figure(measured)]


async def measure_pair(
    stack: Stack, people: Crowd, copies: Copying, opened: Sequence[Connection], count: int = 40
) -> Pair:
    """Send batches, then copy the rows that they became."""
    made = people.batches(count)
    before = processor_seconds(stack.pids)
    sent = await send_batches(opened, made)
    processor = used(before, processor_seconds(stack.pids), count * BATCH)
    await projected(stack)
    rows = await copies.rows_of(made)
    return Pair(
        sent,
        await copies.batches_per_second(rows),
        await copies.stream_per_second(rows),
        await copies.stream_per_second(rows, indexes=False),
        processor,
    )


def _figure(pairs: Sequence[Pair]) -> Figure:
    ratio = statistics.median(pair.ratio for pair in pairs)
    return Figure(
        name="ingest",
        what=f"POST /events/batch, {BATCH} each, {CONNECTIONS} connections, projector running",
        value=round(statistics.median(pair.rate for pair in pairs)),
        unit="/s",
        ceiling=round(statistics.median(pair.batches for pair in pairs)),
        ceiling_what="COPY of the same rows (events and ids) into tables of the same shape, in the same batches",
        target=f"≥ {_TARGET} of COPY",
        reached=ratio >= _TARGET,
        details={
            "ratio": round(ratio, 3),
            "ratios": [round(pair.ratio, 3) for pair in pairs],
            "rates": [round(pair.rate) for pair in pairs],
            "copy_batches": [round(pair.batches) for pair in pairs],
            "copy_stream_events_only": [round(pair.stream) for pair in pairs],
            "copy_heap_events_only": [round(pair.heap) for pair in pairs],
            "processor_us_each": {
                part: round(statistics.median(pair.processor[part] for pair in pairs) * 1000, 1)
                for part in pairs[0].processor
            },
            **spread([taken for pair in pairs for taken in pair.sent.times_ms]),
        },
    )


async def singles(stack: Stack, *, quick: bool) -> list[Figure]:
    """`POST /events` against one-row inserts, on 64 connections each, a commit each; in turns."""
    count, pairs = (1000, 2) if quick else (4000, 5)
    people = await crowd(stack, "single", 2000)
    ours: list[Burst] = []
    bare: list[Burst] = []
    inserters = [await asyncpg.connect(stack.owner_url) for _ in range(_SINGLE_CONNECTIONS)]
    try:
        await inserters[0].execute("CREATE TABLE inserted_ids (LIKE event_ids INCLUDING ALL)")
        async with senders(stack, _SINGLE_CONNECTIONS) as opened:
            for _ in range(pairs + 1):
                ours.append(await _send(opened, people.events(count)))
                await projected(stack)
                bare.append(await _insert(inserters, count))
        await inserters[0].execute("DROP TABLE inserted_ids")
    finally:
        await asyncio.gather(*(one.close() for one in inserters))
    return [_single_figure(ours[1:], bare[1:])]


async def _send(opened: Sequence[Connection], events: Sequence[Event]) -> Burst:
    return await burst(events, [partial(send_one, one) for one in opened])


async def _insert(inserters: Sequence[asyncpg.Connection[asyncpg.Record]], count: int) -> Burst:
    statement = "INSERT INTO inserted_ids VALUES ($1, 1, now())"
    ids = [uuid.uuid4().hex for _ in range(count)]
    return await burst(ids, [partial(one.execute, statement) for one in inserters])


def _single_figure(ours: Sequence[Burst], bare: Sequence[Burst]) -> Figure:
    rate = statistics.median(done.per_second for done in ours)
    return Figure(
        name="ingest one by one",
        what=f"POST /events, {_SINGLE_CONNECTIONS} connections, each on disk when it is answered",
        value=round(rate),
        unit="/s",
        ceiling=round(statistics.median(done.per_second for done in bare)),
        ceiling_what=f"one-row inserts of an id, {_SINGLE_CONNECTIONS} connections, a commit each",
        target=f"≥ {_SINGLE_TARGET:,.0f}/s",
        reached=rate >= _SINGLE_TARGET,
        details={
            "rates": [round(done.per_second) for done in ours],
            "bare_rates": [round(done.per_second) for done in bare],
            **spread([taken for done in ours for taken in done.times_ms]),
        },
    )
