"""The cost of the audit log for reads and batches of events, against an API process that does not write it."""

from __future__ import annotations

import os
import random
import statistics
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from benchmarks.events import projected
from benchmarks.http import Connection, connections
from benchmarks.measure import Burst, Figure, burst, in_turns, spread
from benchmarks.processor import processor_seconds, used
from benchmarks.stack import Stack
from benchmarks.twin import Twin, twins
from models.audit import AuditEntry
from store.audit import entries

_READ_TARGET_MS = 1.0
_INGEST_TARGET = 0.95
_BATCH = 500
_PAGE_BYTES = 8192
_CONNECTIONS = 4
_PEOPLE = 5000


@dataclass(frozen=True)
class Block:
    """A block of batches."""

    rate: float
    """Events a second."""
    processor: dict[str, float]
    """Milliseconds of processor time per batch, by part of the stack."""


async def run(stack: Stack, *, quick: bool) -> list[Figure]:
    """Measure both, each in turns with its ceiling."""
    [user_id] = await stack.add_users("audited", 1)
    with twins(stack) as (audited, other):
        reads = await _reads(stack, audited, other, user_id, 300 if quick else 3000)
        people = await stack.add_users("audit", _PEOPLE, consents={"data_collection": True})
        ingest = await _ingest(stack, audited, other, people, 2 if quick else 30)
    return [reads, ingest]


async def _reads(stack: Stack, audited: Twin, other: Twin, user_id: str, count: int) -> Figure:
    """Reads one after the other, in turns with their parts: a transaction with a row, and a flush of the disk."""
    bare = await stack.bare_connection()
    entry = AuditEntry("key_0000000000000000", "admin", "users.read", user_id, (), ("email",) * 20, "r" * 32)
    async with connections(audited.url, stack.key) as [ours], connections(other.url, stack.key) as [theirs]:

        async def with_audit() -> None:
            await ours.get(f"/users/{user_id}")

        async def without() -> None:
            await theirs.get(f"/users/{user_id}")

        async def statement() -> None:
            async with stack.database.transaction() as connection:
                await entries.append(connection, [entry])

        async def nothing() -> None:
            async with bare.transaction():
                await bare.fetchval("SELECT 1")

        async def flush() -> None:
            os.pwrite(page, b"\x01" * _PAGE_BYTES, 0)
            os.fdatasync(page)

        page = os.open(stack.home / "audit-page", os.O_RDWR | os.O_CREAT)
        try:
            taken = await in_turns([with_audit, without, statement, nothing, flush], count)
        finally:
            await bare.close()
            os.close(page)
    return _read_figure(*(spread(times) for times in taken))


def _read_figure(
    mine: Mapping[str, float],
    ceiling: Mapping[str, float],
    row: Mapping[str, float],
    empty: Mapping[str, float],
    disk: Mapping[str, float],
) -> Figure:
    added = round(mine["p50_ms"] - ceiling["p50_ms"], 3)
    return Figure(
        name="audit of reads",
        what="GET of a profile with its row in the audit log, minus the same without, p50",
        value=added,
        unit="ms",
        ceiling=ceiling["p50_ms"],
        ceiling_what="the same GET from a process that writes no row, p50",
        target=f"≤ {_READ_TARGET_MS:.0f} ms",
        reached=added <= _READ_TARGET_MS,
        details={
            "audited": mine,
            "unaudited": ceiling,
            "a_transaction_with_a_row": row,
            "an_empty_transaction": empty,
            "the_disk_alone": disk,
            "added_p99_ms": round(mine["p99_ms"] - ceiling["p99_ms"], 3),
        },
    )


async def _ingest(stack: Stack, audited: Twin, other: Twin, people: Sequence[str], pairs: int) -> Figure:
    batches = 20 if pairs < 5 else 60
    taken: list[tuple[Block, Block]] = []
    async with (
        connections(audited.url, stack.key, _CONNECTIONS) as ours,
        connections(other.url, stack.key, _CONNECTIONS) as theirs,
    ):
        for pair in range(pairs + 1):  # the first pair warms up
            sides = [(audited, ours), (other, theirs)]
            blocks = [await _block(stack, *side, people, batches) for side in (sides if pair % 2 else sides[::-1])]
            if pair:
                first, second = blocks
                taken.append((first, second) if pair % 2 else (second, first))
    return _ingest_figure(taken)


async def _block(
    stack: Stack, twin: Twin, opened: Sequence[Connection], people: Sequence[str], batches: int
) -> Block:
    """Send batches; processor time is counted until they are projected."""
    parts = {"api": twin.pid, **{name: stack.pids[name] for name in ("postgres", "worker")}}
    before = processor_seconds(parts)
    sent = await _send(stack, opened, people, batches)
    return Block(sent.per_second * _BATCH, used(before, processor_seconds(parts), batches))


def _ingest_figure(taken: Sequence[tuple[Block, Block]]) -> Figure:
    ratios = [ours.rate / theirs.rate for ours, theirs in taken]
    ratio = statistics.median(ratios)
    return Figure(
        name="audit of ingest",
        what=f"POST /events/batch, {_BATCH} each, {_CONNECTIONS} connections, a row each in the audit log",
        value=round(statistics.median(ours.rate for ours, _ in taken)),
        unit="/s",
        ceiling=round(statistics.median(theirs.rate for _, theirs in taken)),
        ceiling_what="the same from a process that writes no row",
        target=f"≥ {_INGEST_TARGET} of it",
        reached=ratio >= _INGEST_TARGET,
        details={
            "ratio": round(ratio, 3),
            "quartiles": [round(each, 3) for each in statistics.quantiles(ratios)],
            "ratios": [round(each, 3) for each in ratios],
            "processor_ms_a_batch": {
                "audited": _median_of_parts([ours for ours, _ in taken]),
                "unaudited": _median_of_parts([theirs for _, theirs in taken]),
            },
        },
    )


def _median_of_parts(blocks: Sequence[Block]) -> dict[str, float]:
    return {
        part: round(statistics.median(block.processor[part] for block in blocks), 2)
        for part in blocks[0].processor
    }


async def _send(stack: Stack, opened: Sequence[Connection], people: Sequence[str], count: int) -> Burst:
    """Send batches, then wait until the projector has read them."""

    def sender(connection: Connection) -> Any:
        async def send(batch: list[dict[str, object]]) -> None:
            response = await connection.request("POST", "/events/batch", {"events": batch})
            if response.status != 202:
                raise RuntimeError(f"a batch was not accepted: {response.status}")

        return send

    made = [[_event(random.choice(people)) for _ in range(_BATCH)] for _ in range(count)]
    sent = await burst(made, [sender(connection) for connection in opened])
    await projected(stack)
    return sent


def _event(user_id: str) -> dict[str, object]:
    return {
        "event_id": uuid.uuid4().hex,
        "user_id": user_id,
        "event_type": "engagement.page_view",
        "timestamp": datetime.now(UTC).isoformat(),
        "session_id": "s-1",
        "event_properties": {"page": "/pricing", "title": "Pricing", "seconds": 12},
    }
