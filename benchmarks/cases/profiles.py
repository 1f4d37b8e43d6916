"""`POST /users/batch` of new profiles, against COPY of the rows that it stores."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import asyncpg

from benchmarks.http import Connection, connections
from benchmarks.measure import Burst, Figure, burst, spread
from benchmarks.processor import processor_seconds, used
from benchmarks.stack import Stack

_BATCH = 1_000
_CONNECTIONS = 4
_BATCHES = 12
_TARGET = 4_000.0
_TABLES = {"users": "user_id", "data_keys": "subject", "consents": "user_id", "consent_history": "user_id"}

Profile = dict[str, Any]


async def run(stack: Stack, *, quick: bool) -> list[Figure]:
    """Create profiles with demographics and consents, and read their rows back for the ceiling; in turns."""
    rounds = 1 if quick else 4
    sent: list[Burst] = []
    copied: list[float] = []
    spent: list[dict[str, float]] = []
    async with connections(stack.url, stack.weak_key, _CONNECTIONS) as opened:
        for number in range(rounds + 1):  # the first warms up
            before = processor_seconds(stack.pids)
            sent.append(await burst(_batches(number), [partial(_send, one) for one in opened]))
            spent.append(used(before, processor_seconds(stack.pids), _BATCHES * _BATCH))
            copied.append(await _copy(stack, f"batch{number}-"))
    return [_figure(sent[1:], copied[1:], spent[1:])]


def _batches(number: int) -> list[list[Profile]]:
    return [
        [_profile(f"batch{number}-{begin + place}") for place in range(_BATCH)]
        for begin in range(0, _BATCHES * _BATCH, _BATCH)
    ]


def _profile(user_id: str) -> Profile:
    return {
        "user_id": user_id,
        "email": f"{user_id}@example.com",
        "name": f"Person {user_id}",
        "signup_date": "2026-01-05T10:00:00Z",
        "account_status": "active",
        "lifecycle_stage": "active",
        "demographics": {
            "date_of_birth": "1992-01-01",
            "gender": "female",
            "country": "DE",
            "city": "Berlin",
            "timezone": "Europe/Berlin",
            "language": "de",
            "device_type": "mobile",
        },
        "consents": {"data_collection": True, "profiling": True, "marketing": False},
        "transactions": {"subscription_tier": "pro"},
    }


async def _send(connection: Connection, batch: Sequence[Profile]) -> None:
    response = await connection.request("POST", "/users/batch", {"users": batch})
    if response.status != 200 or response.json()["created"] != len(batch):
        raise RuntimeError(f"a batch was not accepted: {response.status} {response.body[:300]!r}")


async def _copy(stack: Stack, prefix: str) -> float:
    """Copy the stored rows into tables of the same shape, a transaction per batch; returns profiles a second."""
    owner = await asyncpg.connect(stack.owner_url)
    try:
        rows: dict[str, list[tuple[Any, ...]]] = {}
        for table, key in _TABLES.items():
            await owner.execute(f"CREATE TABLE copied_{table} (LIKE {table} INCLUDING ALL EXCLUDING IDENTITY)")
            rows[table] = [
                tuple(row)
                for row in await owner.fetch(
                    f"SELECT * FROM {table} WHERE starts_with({key}, $1) ORDER BY {key}", prefix
                )
            ]
        began = time.perf_counter()
        for batch in range(_BATCHES):
            async with owner.transaction():
                for table, held in rows.items():
                    part = len(held) // _BATCHES
                    await owner.copy_records_to_table(
                        f"copied_{table}", records=held[batch * part : (batch + 1) * part]
                    )
        seconds = time.perf_counter() - began
        await owner.execute(f"DROP TABLE {', '.join(f'copied_{table}' for table in _TABLES)}")
        return _BATCHES * _BATCH / seconds
    finally:
        await owner.close()


def _figure(sent: Sequence[Burst], copied: Sequence[float], spent: Sequence[dict[str, float]]) -> Figure:
    rates = [done.per_second * _BATCH for done in sent]
    rate = statistics.median(rates)
    return Figure(
        name="profiles",
        what=f"new profiles by POST /users/batch, {_BATCH:,} each, {_CONNECTIONS} connections, encrypted",
        value=round(rate),
        unit="/s",
        ceiling=round(statistics.median(copied)),
        ceiling_what="COPY of the same rows (users, data keys, consents, their history), a transaction per batch",
        target=f"≥ {_TARGET:,.0f}/s",
        reached=rate >= _TARGET,
        details={
            "rates": [round(each) for each in rates],
            "copied": [round(each) for each in copied],
            "processor_us_each": {
                part: round(statistics.median(each[part] for each in spent) * 1000, 1) for part in spent[0]
            },
            **spread([taken for done in sent for taken in done.times_ms]),
        },
    )
