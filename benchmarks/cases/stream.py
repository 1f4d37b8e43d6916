"""A stream of events: its rate until projected, its memory, and the delay until profiles show an event."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from benchmarks.copying import copying
from benchmarks.events import (
    BATCH,
    CONNECTIONS,
    Crowd,
    crowd,
    projected,
    send_batch,
    send_batches,
    send_one,
    senders,
)
from benchmarks.http import Connection, connections
from benchmarks.measure import Figure, spread, times
from benchmarks.memory import resident, watched
from benchmarks.processor import processor_seconds, used
from benchmarks.stack import Stack

_SUSTAINED_TARGET = 8_000.0
_MEMORY_TARGET = 350.0
_RATE = 2_000
_RATE_BATCH = 50
_VISIBLE_TARGET_MS = 250.0
_PROBE_EVERY_SECONDS = 0.1
_POLL_SECONDS = 0.005
_PATIENCE_SECONDS = 30.0


async def sustained(stack: Stack, *, quick: bool) -> list[Figure]:
    """Send at full load until the projector has folded the last event; sample the memory of API and worker."""
    count = 60 if quick else 600
    people = await crowd(stack, "stream")
    pids = {name: stack.pids[name] for name in ("api", "worker")}
    idle = {name: resident(pid) for name, pid in pids.items()}
    async with copying(stack) as copies, senders(stack) as opened:
        batches = people.batches(count)
        before = processor_seconds(stack.pids)
        async with watched(pids) as most:
            began = time.perf_counter()
            sent = await send_batches(opened, batches)
            behind = await projected(stack)
            seconds = time.perf_counter() - began
        processor = used(before, processor_seconds(stack.pids), count * BATCH)
        ceiling = await copies.batches_per_second(await copies.rows_of(batches[:60]))
    rate = count * BATCH / seconds
    figures = [
        Figure(
            name="sustained",
            what=f"{count * BATCH:,} events in batches of {BATCH} on {CONNECTIONS} connections, until folded",
            value=round(rate),
            unit="/s",
            ceiling=round(ceiling),
            ceiling_what="COPY of the same rows (events and ids) in the same batches",
            target=f"≥ {_SUSTAINED_TARGET:,.0f}/s",
            reached=rate >= _SUSTAINED_TARGET,
            details={
                "ingested_per_second": round(count * BATCH / sent.seconds),
                "folded_after_the_last_response_s": round(behind, 2),
                "processor_us_each": {part: round(spent * 1000, 1) for part, spent in processor.items()},
            },
        )
    ]
    return figures + [_memory_figure(name, most[name], idle[name]) for name in pids]


def _memory_figure(name: str, most: float, idle: float) -> Figure:
    return Figure(
        name=f"memory of {name}",
        what="highest resident memory of the process under that load",
        value=round(most),
        unit="MiB",
        ceiling=round(idle),
        ceiling_what="the same process before",
        target=f"< {_MEMORY_TARGET:.0f} MiB",
        reached=most < _MEMORY_TARGET,
    )


async def visible(stack: Stack, *, quick: bool) -> list[Figure]:
    """The time from the response to an event until `GET` of the profile shows it, at 2,000 events/s."""
    seconds = 5.0 if quick else 30.0
    people = await crowd(stack, "visible", 5_000)
    probes = await stack.add_users(
        "probe", int(seconds / _PROBE_EVERY_SECONDS), consents={"data_collection": True}
    )
    async with senders(stack, 2) as [stream, prober], connections(stack.url, stack.key) as [reader]:
        pouring = asyncio.create_task(_pour(stream, people))
        try:
            taken = [await _probe(prober, reader, user_id) for user_id in probes]
            reads = await times(lambda: reader.get(f"/users/{probes[0]}"), len(probes))
        finally:
            pouring.cancel()
            await asyncio.wait([pouring])
    await projected(stack)
    return [_visible_figure(taken, reads)]


async def _pour(connection: Connection, people: Crowd) -> None:
    """Send at the rate by the clock, so that a pause is made up for."""
    began, sent = time.perf_counter(), 0
    while True:
        due = int((time.perf_counter() - began) * _RATE)
        if sent < due:
            await send_batch(connection, people.events(_RATE_BATCH))
            sent += _RATE_BATCH
        else:
            await asyncio.sleep(0.005)


async def _probe(prober: Connection, reader: Connection, user_id: str) -> float:
    """Milliseconds from the response until the profile shows the event."""
    sent_at = datetime.now(UTC).isoformat()
    event = {"event_id": uuid.uuid4().hex, "user_id": user_id, "event_type": "engagement.share"}
    await send_one(prober, {**event, "timestamp": sent_at, "session_id": "probe"})
    began = time.perf_counter()
    while not (await reader.get(f"/users/{user_id}")).json()["behavior"]["session_count"]:
        if time.perf_counter() - began > _PATIENCE_SECONDS:
            raise TimeoutError("an event did not become visible")
        await asyncio.sleep(_POLL_SECONDS)
    taken = (time.perf_counter() - began) * 1000
    await asyncio.sleep(_PROBE_EVERY_SECONDS - min(_PROBE_EVERY_SECONDS, taken / 1000))
    return taken


def _visible_figure(taken: Sequence[float], reads: Sequence[float]) -> Figure:
    ours, bare = spread(taken), spread(reads)
    return Figure(
        name="visible",
        what=f"response to an event until its profile shows it, at {_RATE:,} events/s, p99",
        value=ours["p99_ms"],
        unit="ms",
        ceiling=bare["p99_ms"],
        ceiling_what="GET of a profile under the same load, p99",
        target=f"p99 < {_VISIBLE_TARGET_MS:.0f} ms",
        reached=ours["p99_ms"] < _VISIBLE_TARGET_MS,
        details={"visible": ours, "get": bare},
    )
