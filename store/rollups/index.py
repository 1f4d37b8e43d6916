"""The index of persons and times by event type and month, for funnels, retention and other time zones.

A compaction adds one run for each type and month. :func:`merge` turns eight runs into one: first it divides them
by persons, then each merge makes a longer run. So an event is written about five times in all, and a person's
events of a type and month are in few runs.

All functions that write need the lock of :mod:`store.rollups.compaction`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date
from typing import Any

import numpy as np
from sqlalchemy import bindparam, delete, func, literal_column, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.rules import entries as packing
from models.rules.entries import EVERYBODY, PART_BITS, Entries, joined, net, pack, people_of, unpack
from models.rules.rollups import I64, U32
from models.tables.rollups import RollupIndex
from store.connection import Connection
from store.statements import one_of, select, statement, unnested

RUNS = 8
GROUPS = 32
"""The most groups of runs that one transaction merges."""
MOST_EVENTS = 2_000_000
"""Runs of more events in all are not merged, so that a transaction stays short."""

_PLACE: list[Any] = [
    *(col(RollupIndex.event_type), col(RollupIndex.month), col(RollupIndex.part), col(RollupIndex.level))
]
_GIVEN = unnested("given", *_PLACE, col(RollupIndex.events), col(RollupIndex.entries))
_INSERT = statement(insert(RollupIndex).from_select([each.name for each in _GIVEN.c], select(*_GIVEN.c)))
_DUE = statement(
    select(*_PLACE, func.array_agg(col(RollupIndex.run)).label("runs"))
    .where(one_of(col(RollupIndex.month), "months"))
    .group_by(*_PLACE)
    .having(
        func.count() >= literal_column(str(RUNS)),
        func.sum(col(RollupIndex.events)) <= literal_column(str(MOST_EVENTS)),
    )
    .limit(literal_column(str(GROUPS)))
)
_BY_RUN = statement(
    select(col(RollupIndex.entries)).where(
        one_of(col(RollupIndex.run), "runs"),
        *(col(RollupIndex.event_type) == bindparam("event_type"), col(RollupIndex.month) == bindparam("month")),
    )
)
_OF = (col(RollupIndex.event_type) == bindparam("event_type"), col(RollupIndex.month) == bindparam("month"))
_DELETE = statement(delete(RollupIndex).where(*_OF, one_of(col(RollupIndex.run), "runs")))
_REPLACE = statement(
    update(RollupIndex)
    .where(*_OF, col(RollupIndex.run) == bindparam("number"))
    .values(events=bindparam("count"), entries=bindparam("packed"))
)
_READ = statement(
    select(col(RollupIndex.entries)).where(
        col(RollupIndex.event_type) == bindparam("event_type"),
        col(RollupIndex.month) >= bindparam("first"),
        col(RollupIndex.month) <= bindparam("last"),
    )
)
_PARTS = statement(
    select(*_PLACE, col(RollupIndex.run), col(RollupIndex.entries))
    .where(one_of(col(RollupIndex.part), "parts"))
    .order_by(*_PLACE, col(RollupIndex.run))
)
_OF_MONTHS = statement(
    select(*_PLACE, col(RollupIndex.run), col(RollupIndex.entries))
    .where(one_of(col(RollupIndex.part), "parts"), one_of(col(RollupIndex.month), "months"))
    .order_by(*_PLACE, col(RollupIndex.run))
)

Run = tuple[str, date, int, int, Entries]
"""Event type, month, part, level and entries."""


async def add(connection: Connection, runs: Iterable[Run]) -> None:
    rows = [(*place, len(entries), pack(entries)) for *place, entries in runs if len(entries)]
    if rows:
        names = [each.name for each in _GIVEN.c]
        columns = map(list, zip(*rows, strict=True))
        await _INSERT.execute(connection, **dict(zip(names, columns, strict=True)))


async def merge(connection: Connection, months: Iterable[date]) -> int:
    """Merge runs of months where eight or more have gathered; returns the number of groups that were merged."""
    due = await _DUE.fetch(connection, months=sorted(months))
    found: list[tuple[Any, Entries]] = []
    for row in due:
        rows = await _BY_RUN.fetch(connection, event_type=row["event_type"], month=row["month"], runs=row["runs"])
        found.append((row, joined([unpack(each["entries"]) for each in rows]).ordered()))
    for row, entries in found:
        place = (row["event_type"], row["month"])
        if row["part"] == EVERYBODY:
            await add(connection, [(*place, part, 1, each) for part, each in entries.parts()])
        else:
            await add(connection, [(*place, row["part"], row["level"] + 1, entries)])
        await _DELETE.execute(connection, event_type=place[0], month=place[1], runs=row["runs"])
    return len(due)


async def read(connection: Connection, event_type: str, first: date, last: date) -> Entries | None:
    """The entries of a type in the months from ``first`` to ``last``, without an order; None if there are none."""
    rows = await _READ.fetch(connection, event_type=event_type, first=first, last=last)
    return joined([unpack(row["entries"]) for row in rows]) if rows else None


async def people_and_times(connection: Connection, event_type: str, first: date, last: date) -> tuple[U32, I64]:
    """The persons and times of a type's events in the months from ``first`` to ``last``, sorted by both."""
    found = await read(connection, event_type, first, last)
    if found is None:
        return np.zeros(0, np.uint32), np.zeros(0, np.int64)
    return packing.by_person_and_time(found.persons, found.times)


async def of_persons(connection: Connection, persons: U32, months: Sequence[date] | None = None) -> list[Run]:
    """The entries of some persons, by run; of all months or of some."""
    return [
        (name, month, part, level, entries.where(np.isin(entries.persons, persons)))
        for name, month, part, level, _, entries in await _runs_of(connection, persons, months)
    ]


async def remove(connection: Connection, removed: Iterable[tuple[str, Entries]]) -> None:
    """Remove entries, by event type: those of equal person, time, series and activity."""
    for event_type, each in removed:
        for month, left in each.by_month():
            rest = left
            for name, _, _, _, run, entries in await _runs_of(connection, rest.persons, [month]):
                if name == event_type and len(rest):
                    kept, rest = net(entries, rest)
                    await _replace(connection, name, month, run, entries, kept)


async def forget(connection: Connection, person: int) -> None:
    """Remove all entries of a person."""
    persons = np.array([person], np.uint32)
    for name, month, _, _, run, entries in await _runs_of(connection, persons, None):
        await _replace(connection, name, month, run, entries, entries.where(entries.persons != person))


async def _runs_of(
    connection: Connection, persons: U32, months: Sequence[date] | None
) -> list[tuple[str, date, int, int, int, Entries]]:
    """The runs that have entries of some persons."""
    parts = sorted({EVERYBODY, *(persons >> PART_BITS).tolist()})
    if months is None:
        rows = await _PARTS.fetch(connection, parts=parts)
    else:
        rows = await _OF_MONTHS.fetch(connection, parts=parts, months=list(months))
    found = []
    for *place, run in (tuple(row) for row in rows):
        if np.isin(people_of(run), persons).any():
            found.append((*place, unpack(run)))
    return found


async def keep(connection: Connection, event_type: str, month: date, kept: Callable[[Entries], Entries]) -> None:
    """Rewrite the runs of a type and month with what ``kept`` leaves of them."""
    for row in await _ALL_OF.fetch(connection, event_type=event_type, month=month):
        entries = unpack(row["entries"])
        await _replace(connection, event_type, month, row["run"], entries, kept(entries))


_ALL_OF = statement(select(col(RollupIndex.run), col(RollupIndex.entries)).where(*_OF))


async def _replace(
    connection: Connection, event_type: str, month: date, run: int, entries: Entries, kept: Entries
) -> None:
    if not len(kept):
        await _DELETE.execute(connection, event_type=event_type, month=month, runs=[run])
    elif len(kept) < len(entries):
        await _REPLACE.execute(
            connection, event_type=event_type, month=month, number=run, count=len(kept), packed=pack(kept)
        )
