"""A type has a bounded number of series, which any two processes assign alike."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from models.rules.series import COMBINATIONS, OTHER, SeriesCache, SeriesKey, TypeSeries, canonical
from runtime.database import Database
from store.connection import Connection
from store.rollups import series
from store.rollups.state import others

VALUES = st.one_of(st.integers(0, 6), st.booleans(), st.sampled_from(["a", "b", "c", 1.0, 1.5]))
KEYS = st.lists(
    st.builds(
        lambda found, currency: SeriesKey("t.x", json.dumps(found) if found else None, currency),
        st.dictionaries(st.sampled_from(["plan", "country", "kind"]), VALUES),
        st.sampled_from([None, "EUR", "USD"]),
    ),
    max_size=120,
)


@given(KEYS, st.integers(1, 3), st.randoms(use_true_random=False))
def test_a_process_that_knows_less_gives_the_same_series_or_none(
    keys: list[SeriesKey], most: int, random: Any
) -> None:
    everything, late = TypeSeries(most), TypeSeries(most)
    for key in keys:
        dimensions = everything.bounded(key)
        new = canonical(dimensions) not in everything.ids
        everything.add(len(everything.ids), dimensions)
        if new and random.random() < 0.8:
            late.add(everything.ids[canonical(dimensions)], dimensions)
    for key in keys:
        assert late.find(key) in (None, everything.find(key))
        bounded = everything.bounded(key)
        assert bounded.get("currency") == key.currency
    for name in ("plan", "country", "kind"):
        held = {json.dumps(json.loads(each).get(name)) for each in everything.ids} - {"null", json.dumps(OTHER)}
        assert len(held) <= most
    assert len(everything.ids) <= 2 * most * COMBINATIONS + 3 * 2**3


async def test_values_beyond_the_limit_are_other_and_counted(database: Database, owner: Connection) -> None:
    cache = SeriesCache(3)
    keys = [SeriesKey("t.x", json.dumps({"plan": f"p-{number}"})) for number in range(10)]
    found = await series.resolve(cache, database.transaction, keys[:5])
    again = await series.resolve(SeriesCache(3), database.transaction, keys)
    assert {key: again[key] for key in found} == found
    assert len(set(again.values())) == 4
    for series_id in again.values():
        await owner.execute(
            """INSERT INTO rollup_hours VALUES ($1, '2026-01-01Z', 1)
               ON CONFLICT (series_id, hour) DO UPDATE SET events = rollup_hours.events + 1""",
            series_id,
        )
    [counted] = await others(owner)
    assert (counted.event_type, counted.dimension, counted.events) == ("t.x", "plan", 7)


async def test_a_rollback_leaves_no_series_in_the_cache(database: Database) -> None:
    class _DiedError(Exception):
        pass

    cache, key = SeriesCache(3), SeriesKey("t.x", None)
    try:
        async with database.transaction() as connection:
            await series.register(connection, [key], 3)
            raise _DiedError
    except _DiedError:
        pass
    assert cache.resolve([key]) == ({}, [key])
    assert list(await series.resolve(cache, database.transaction, [key])) == [key]
    assert cache.resolve([key])[1] == []
