"""What rollups cost: the projector's processor time with and without them, the compactor's, and their size.

It runs on a Postgres of its own, in this process, so that no other worker takes the events. The projector takes
batches in turns with and without rollups. For the sizes, deltas of random people and times over a year are
appended and folded by the code of the store.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson

from activities import projector
from activities.projector import Follower
from benchmarks.measure import Figure
from benchmarks.processor import processor_seconds
from benchmarks.stack import Stack
from models.rules.ingest import prepare
from models.rules.profile import Profile
from models.rules.rollups import EPOCH, Delta
from models.rules.series import SeriesKey
from models.rules.sharding import shard_of
from models.rules.taxonomy import STANDARD
from models.vocabulary import AccountStatus, LifecycleStage
from privacy.encryption import Cipher
from privacy.keyring import KeyFile
from runtime import migrate
from runtime.database import Database
from runtime.embedded.postgres import EmbeddedPostgres, scratch_postgres
from runtime.process import collect_garbage_rarely
from runtime.settings import Settings
from store.events import events as store_events
from store.rollups import compaction, deltas, forgetting, index, people, series
from store.users import users

_BATCH = 5000
_PEOPLE = 500
_TARGET = 1.4
_YEAR = date(2025, 1, 1)
_TYPES = ("engagement.page_view", "user.login", "engagement.search", "engagement.content_view", "lesson.finish")
_COUNTRIES = ("DE", "FR", "US", "GB", "IT", "ES", "NL", "SE")
_DEVICES = ("mobile", "desktop", "tablet")
_TABLES = ("rollup_series", "rollup_hours", "rollup_people", "rollup_index")


async def run(stack: Stack | None, *, quick: bool) -> list[Figure]:
    async with scratch_postgres() as server, _database(server) as database:
        projected = await _projector(server, database, pairs=3 if quick else 12)
        folded = await _compactor(server, database, events=200_000 if quick else 2_000_000)
    return [projected, *folded]


@asynccontextmanager
async def _database(server: EmbeddedPostgres) -> AsyncIterator[Database]:
    settings = Settings(database_url=server.runtime_url, migration_database_url=server.owner_url)
    await asyncio.to_thread(migrate.upgrade, settings)
    database = Database(server.runtime_url, size=8, application="bench")
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def _projector(server: EmbeddedPostgres, database: Database, pairs: int) -> Figure:
    with TemporaryDirectory() as folder:
        file = KeyFile(Path(folder) / "keys.json")
        file.create()
        cipher = Cipher(file.load())
    ids = [user_id for user_id in (f"b-{number}" for number in range(4 * _PEOPLE)) if shard_of(user_id) == 0]
    profiles = [_profile(user_id) for user_id in ids]
    async with database.transaction() as connection:
        await users.insert_new(connection, cipher, profiles, actor="bench")
    async with database.connection() as connection:
        await connection.execute("SELECT ensure_events_partition(DATE '2026-03-01')")
    follower = Follower(database, cipher, (), 0)
    collect_garbage_rarely()  # as workers do
    spent: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    counted = vars(projector)["counted"]
    for number in range(2 * pairs + 2):
        rolled = number % 2 == 0
        await _record(database, cipher, ids, number)
        vars(projector)["counted"] = counted if rolled else _nothing
        before = processor_seconds({"postgres": server.pid or 0})
        await follower.step()
        after = processor_seconds({"postgres": server.pid or 0})
        if number > 1:  # the first ones warm up
            micro = 1e6 / _BATCH
            spent[rolled].append(
                ((after["load"] - before["load"]) * micro, (after["postgres"] - before["postgres"]) * micro)
            )
    vars(projector)["counted"] = counted
    own, other = ([statistics.mean(each) for each in zip(*spent[rolled], strict=True)] for rolled in (True, False))
    return Figure(
        name="rollups in the projector",
        what=f"processor time for an event in a batch of {_BATCH} of {len(ids)} people, with rollups",
        value=round(sum(own), 1),
        unit="µs",
        ceiling=round(sum(other), 1),
        ceiling_what="the same without",
        target=f"≤ {_TARGET} times",
        reached=sum(own) <= _TARGET * sum(other),
        details={"projector_and_postgres": [[round(each, 1) for each in both] for both in (own, other)]},
    )


def _nothing(*_: Any) -> list[Any]:
    return []


def _profile(user_id: str) -> Profile:
    return Profile(
        user_id=user_id,
        email=f"{user_id}@example.com",
        name="Ada",
        signup_date=datetime(2026, 1, 5, tzinfo=UTC),
        account_status=AccountStatus.ACTIVE,
        lifecycle_stage=LifecycleStage.ACTIVE,
        consents={"data_collection": True},
    )


async def _record(database: Database, cipher: Cipher, ids: list[str], round_: int) -> None:
    """Ingest a batch: views with a country, clicks, and one purchase in twenty events."""
    begin = datetime(2026, 3, 2, tzinfo=UTC) + timedelta(hours=round_)
    made = []
    for number in range(_BATCH):
        kind, properties = "engagement.page_view", {"page": "/home"}
        if number % 20 == 0:
            kind = "transaction.purchase_complete"
            properties = {"order_id": f"o-{number}", "amount": "19.99", "currency": "EUR"}
        elif number % 5 == 0:
            kind, properties = "engagement.feature_click", {"feature": f"f-{number % 40}"}
        parts = {
            "event_properties": properties,
            "location": {"country": _COUNTRIES[number % 8]},
            "device_info": {"device_type": _DEVICES[number % 3]},
        }
        user_id = ids[number % len(ids)]
        prepared = prepare(
            event_id=f"e-{round_}-{number}",
            user_id=user_id,
            event_type=kind,
            timestamp=begin + timedelta(milliseconds=number * 600),
            session_id=f"s-{round_}-{user_id}",
            parts=parts,
            declared=STANDARD[kind],
            historical=True,
        )
        made.append(prepared)
    async with database.transaction() as connection:
        await store_events.record(connection, cipher, made)


async def _compactor(server: EmbeddedPostgres, database: Database, events: int) -> list[Figure]:
    """Append and fold ``events`` of a fiftieth as many people, in the order of their times."""
    persons = events // 50
    async with database.transaction() as connection:
        _, known = await series.register(connection, _keys(), 1000)
    numbers = np.array(list(known.values()), np.uint32)
    random = np.random.default_rng(7)
    begin = int((datetime(2025, 1, 1, tzinfo=UTC) - EPOCH).total_seconds()) * 1_000_000
    times = np.sort(random.integers(0, 365 * 86_400 * 1_000_000, events)) + begin
    before = processor_seconds({"postgres": server.pid or 0})
    longest = 0.0
    for start in range(0, events, _BATCH):
        part = times[start : start + _BATCH]
        async with database.transaction() as connection:
            await deltas.append(connection, 0, _delta(random, numbers, part, persons), datetime.now(UTC))
        if start // _BATCH % 4 == 3 or start + _BATCH >= events:
            longest = max(longest, await _fold(database))
    after = processor_seconds({"postgres": server.pid or 0})
    micro = {name: round((after[name] - before[name]) * 1e6 / events, 2) for name in after}
    async with database.connection() as connection:
        sizes = await _sizes(connection, events)
        decoded = await _decoded(connection)
        erased = await _erased(database)
    return [
        Figure(
            name="compactor",
            what=f"processor time to append and fold an event; {events:,} of {persons:,} people in a year",
            value=micro["load"] + micro["postgres"],
            unit="µs",
            ceiling=0,
            ceiling_what="",
            details={"parts": micro, "longest_transaction_ms": round(longest * 1000, 1)},
        ),
        Figure(
            name="size of rollups",
            what=f"bytes of an event, {events:,} events of {persons:,} people",
            value=round(sum(sizes.values()), 1),
            unit="B",
            ceiling=0,
            ceiling_what="",
            details={"by_table": sizes, **decoded, **erased},
        ),
    ]


def _keys() -> list[SeriesKey]:
    return [
        SeriesKey(kind, orjson.dumps({"country": country, "device_type": device}).decode())
        for kind in _TYPES
        for country in _COUNTRIES
        for device in _DEVICES
    ]


def _delta(random: np.random.Generator, numbers: Any, times: Any, persons: int) -> Delta:
    count = len(times)
    return Delta(
        series=numbers[random.integers(0, len(numbers), count)],
        persons=(random.integers(1, persons + 1, count)).astype(np.uint32),
        times=times.astype(np.int64),
        flags=np.ones(count, np.uint8),
        money=np.zeros(0, np.uint32),
        amounts=[],
        sessions=np.zeros((0, 3), np.int64),
    )


async def _fold(database: Database) -> float:
    """Fold what waits, and merge; returns the seconds of the longest transaction."""
    longest = 0.0
    while True:
        began = time.perf_counter()
        async with database.transaction() as connection:
            done = await compaction.compact(connection)
        longest = max(longest, time.perf_counter() - began)
        if not done.deltas:
            return longest
        merged = 1
        while merged:
            began = time.perf_counter()
            async with database.transaction() as connection:
                merged = await compaction.merge(connection, done.months)
            longest = max(longest, time.perf_counter() - began)


async def _sizes(connection: Any, events: int) -> dict[str, float]:
    """Bytes of live rows by table, for an event. Dead rows are vacuum's."""
    found = {}
    for table in _TABLES:
        held = await connection.fetchval(f"SELECT coalesce(sum(pg_column_size(t.*) + 24), 0) FROM {table} t")
        found[table] = round(float(held) / events, 2)
    return found


async def _decoded(connection: Any) -> dict[str, Any]:
    """Milliseconds to read and sort a year of two types, and to unite the people of its days."""
    began = time.perf_counter()
    events = 0
    for kind in _TYPES[:2]:
        _, times = await index.people_and_times(connection, kind, _YEAR, _YEAR.replace(month=12))
        events += len(times)
    took = time.perf_counter() - began
    began = time.perf_counter()
    days = await people.by_day(connection, _YEAR, _YEAR.replace(month=12, day=31))
    active = sum(len(each) for each in days.values())
    return {
        "two_types": {"events": events, "ms": round(took * 1000, 1)},
        "days": {"days": len(days), "people": active, "ms": round((time.perf_counter() - began) * 1000, 1)},
        "runs": await connection.fetchval("SELECT count(*) FROM rollup_index"),
    }


async def _erased(database: Database) -> dict[str, float]:
    took = []
    for person in (5, 50, 500):
        began = time.perf_counter()
        async with database.transaction() as connection:
            await forgetting.forget(connection, person)
        took.append(time.perf_counter() - began)
    return {"forget_ms": round(statistics.median(took) * 1000, 1)}
