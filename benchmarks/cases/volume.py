"""Ingest with five million events stored, against ingest with none."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import asyncpg

from benchmarks.cases.ingest import Pair, measure_pair
from benchmarks.copying import Copying, copying
from benchmarks.events import BATCH, CONNECTIONS, Crowd, crowd, senders
from benchmarks.measure import Figure
from benchmarks.stack import Stack

STORED = 5_000_000
_MONTHS = 11
_TARGET = 0.9

_FILL = """
    WITH made AS MATERIALIZED (
        SELECT md5('stored-' || number) AS event_id, $1::text || (number * 7919 % $2) AS user_id,
               date_trunc('month', now()) - make_interval(months => (number % $3)::integer)
                   + interval '1 second' * (number % 2400000) AS timestamp, number
          FROM generate_series($4::bigint, $5::bigint) AS number),
    ids AS (INSERT INTO event_ids (event_id, fingerprint, timestamp) SELECT event_id, 0, timestamp FROM made)
    INSERT INTO events (event_id, user_id, event_type, timestamp, session_id, shard, generation, historical, body)
    SELECT event_id, user_id, 'engagement.content_view', timestamp, 's-' || number % 3, number % 4,
           (SELECT generation FROM log_generation), true, decode(repeat(md5(number::text), 8), 'hex')
      FROM made"""
_STEP = 50_000
"""Rows in a transaction: a long one would hold back the projector."""


async def run(stack: Stack, *, quick: bool) -> list[Figure]:
    """Blocks without the stored events, then with them; COPY of each block shows the state of the machine."""
    stored, pairs = (STORED // 20, 2) if quick else (STORED, 6)
    people = await crowd(stack, "volume")
    async with copying(stack) as copies:
        without = await _pairs(stack, people, copies, pairs)
        seconds = await fill(stack, "volume-", len(people.user_ids), stored)
        filled = await _pairs(stack, people, copies, pairs)
    return [_figure(without, filled, stored, seconds)]


async def _pairs(stack: Stack, people: Crowd, copies: Copying, count: int) -> list[Pair]:
    # The API closes connections that are idle while the events are stored, so these are new.
    async with senders(stack) as opened:
        await measure_pair(stack, people, copies, opened)  # warms up
        return [await measure_pair(stack, people, copies, opened) for _ in range(count)]


async def fill(stack: Stack, prefix: str, people: int, count: int) -> float:
    """Store events of the last months with their ids, by SQL; returns the seconds.

    Their bodies cannot be decrypted, so each transaction also moves the projector's cursors past its events.
    """
    owner = await asyncpg.connect(stack.owner_url)
    began = time.perf_counter()
    try:
        await owner.execute(
            """SELECT ensure_events_partition((date_trunc('month', now()) - make_interval(months => n))::date)
                 FROM generate_series(-1, $1) AS n""",
            _MONTHS,
        )
        for begin in range(0, count, _STEP):
            async with owner.transaction():
                end = min(begin + _STEP, count) - 1
                await owner.execute(_FILL, prefix, people, _MONTHS, begin, end, timeout=600)
                await owner.execute(
                    """UPDATE log_cursors SET xid = pg_current_xact_id(), sequence = (SELECT last_value FROM
                              events_sequence), generation = (SELECT generation FROM log_generation)"""
                )
        await owner.execute("VACUUM (ANALYZE) events, event_ids", timeout=600)
    finally:
        await owner.close()
    return time.perf_counter() - began


def _figure(without: Sequence[Pair], filled: Sequence[Pair], stored: int, seconds: float) -> Figure:
    rate, bare = (statistics.median(pair.rate for pair in pairs) for pairs in (filled, without))
    shares = [statistics.median(pair.ratio for pair in pairs) for pairs in (filled, without)]
    return Figure(
        name="ingest into volume",
        what=f"POST /events/batch, {BATCH} each, {CONNECTIONS} connections, with {stored:,} events stored",
        value=round(rate),
        unit="/s",
        ceiling=round(bare),
        ceiling_what="the same with none stored, before",
        target=f"≥ {_TARGET} of it",
        reached=rate >= _TARGET * bare,
        details={
            "ratio": round(rate / bare, 3),
            "rates": [round(pair.rate) for pair in filled],
            "rates_before": [round(pair.rate) for pair in without],
            "share_of_copy_and_before": [round(share, 3) for share in shares],
            "fill_seconds": round(seconds, 1),
        },
    )
