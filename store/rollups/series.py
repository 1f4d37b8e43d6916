"""Registers series: combinations of an event type and the values of its dimensions (:mod:`models.rules.series`).

A series is registered under one lock, so that the limits hold exactly, and committed before a delta names it. The
projector registers in a transaction of its own: no other shard waits for the rest of its batch, and a rollback
of the batch leaves a series without events. A process remembers a series only after that commit. A replay
of one event registers in its own transaction and remembers nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.rules.bitmaps import Series
from models.rules.series import SeriesCache, SeriesKey, TypeSeries, canonical
from models.tables.rollups import RollupSeries
from store.connection import Connection
from store.statements import one_of, select, statement, unnested

logger = logging.getLogger("perennial.rollups")

_LOCK = statement(select(func.pg_advisory_xact_lock(0x7365_7269_6573)))  # "series"
_COLUMNS = (col(RollupSeries.series_id), col(RollupSeries.event_type), col(RollupSeries.dimensions))
_FIND = statement(select(*_COLUMNS).where(one_of(col(RollupSeries.event_type), "event_types")))
_GIVEN = unnested("given", col(RollupSeries.event_type), col(RollupSeries.dimensions))
_INSERT = statement(
    insert(RollupSeries).from_select(["event_type", "dimensions"], select(*_GIVEN.c)).returning(*_COLUMNS)
)

_BY_ID = statement(select(*_COLUMNS).where(one_of(col(RollupSeries.series_id), "series_ids")))

Registered = tuple[dict[str, TypeSeries], dict[SeriesKey, int]]


async def register(connection: Connection, keys: Iterable[SeriesKey], most_values: int) -> Registered:
    """The series of the keys' types with those of the keys, in the caller's transaction; and the keys' ids."""
    wanted = list(keys)
    await _LOCK.execute(connection)
    # The next statement after the lock sees every series that the lock waited for.
    types = {key.event_type: TypeSeries(most_values) for key in wanted}
    for row in await _FIND.fetch(connection, event_types=sorted(types)):
        types[row["event_type"]].add(row["series_id"], row["dimensions"])
    new: list[tuple[str, dict[str, object]]] = []
    before = {name: known.full() for name, known in types.items()}
    for key in wanted:
        known = types[key.event_type]
        dimensions = known.bounded(key)
        if canonical(dimensions) not in known.ids:
            known.add(-1 - len(new), dimensions)  # a place, until Postgres has given the id
            new.append((key.event_type, dimensions))
    if new:
        rows = await _INSERT.fetch(
            connection, event_type=[each for each, _ in new], dimensions=[each for _, each in new]
        )
        for row in rows:
            types[row["event_type"]].ids[canonical(row["dimensions"])] = row["series_id"]
    _tell(types, before)
    found: dict[SeriesKey, int] = {}
    for key in wanted:
        series_id = types[key.event_type].find(key)
        if series_id is None or series_id < 0:
            raise LookupError(f"a series of {key.event_type} was not registered")
        found[key] = series_id
    return types, found


def _tell(types: dict[str, TypeSeries], before: dict[str, list[str]]) -> None:
    for name, known in types.items():
        for dimension in sorted(set(known.full()) - set(before[name])):
            logger.warning(
                "a dimension has as many values as rollups keep; further ones count as (other)",
                extra={"event_type": name, "dimension": dimension, "values": known.most},
            )


async def resolve(
    cache: SeriesCache,
    transaction: Callable[[], AbstractAsyncContextManager[Connection]],
    keys: Collection[SeriesKey],
) -> dict[SeriesKey, int]:
    """The ids of keys, from the cache or registered in a transaction of its own."""
    found, missing = cache.resolve(keys)
    if missing:
        async with transaction() as connection:
            types, ids = await register(connection, missing, cache.most_values)
        cache.add(types, ids)  # committed
        found |= ids
    return found


async def find(connection: Connection, series_ids: Collection[int]) -> dict[int, Series]:
    """Series by id. Raises LookupError if one is missing: a process knows series that this database lacks."""
    rows = await _BY_ID.fetch(connection, series_ids=sorted(series_ids))
    if len(rows) < len(series_ids):
        raise LookupError("a delta names a series that is not in rollup_series")
    return {row["series_id"]: Series(row["event_type"], row["dimensions"]) for row in rows}
