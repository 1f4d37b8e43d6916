"""Folds waiting deltas into the rollups, exactly once.

:func:`compact` is one transaction: it takes the oldest waiting deltas, adds them to the rollups and deletes them.
It computes everything before its first write, so that it holds the log's horizon back only briefly. If the worker
or Postgres dies:

1. before the commit: Postgres rolls back, and the deltas wait as before.
2. during the commit, without an answer: rollups and deletions are both committed, or neither.
3. after the commit: the deltas are gone. If Postgres crashes before the commit is on disk, it loses both together.

Two compactors take turns by an advisory lock. The second one reads after the first one's commit, so it doesn't see
the deltas that the first has folded. :mod:`store.rollups.forgetting` takes the same lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

import numpy as np
from asyncpg import Record
from pyroaring import BitMap
from sqlalchemy import bindparam, delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.rules import entries, rollups
from models.rules.bitmaps import Series, groups
from models.rules.entries import EVERYBODY, Entries
from models.rules.rollups import Delta, joined, unpacked
from models.tables.rollups import RollupDelta, RollupHour, RollupSession
from store.connection import Connection, use_background_settings
from store.rollups import index, people, series
from store.statements import one_of, select, statement, unnested

BATCH = 32
"""The most deltas that one transaction folds."""
EVENTS = 50_000
"""One transaction folds deltas of at most this many events, and at least one delta."""

LOCK = 0x636F_6D70_6163_74  # "compact"
_LOCK = statement(select(func.pg_advisory_xact_lock(LOCK)))
_WAITING = statement(
    select(
        *(col(RollupDelta.delta_id), col(RollupDelta.events), col(RollupDelta.series), col(RollupDelta.persons)),
        *(col(RollupDelta.times), col(RollupDelta.flags), col(RollupDelta.money), col(RollupDelta.amounts)),
        col(RollupDelta.sessions),
    )
    .order_by(col(RollupDelta.delta_id))
    .limit(bindparam("limit"))
)
_DELETE = statement(delete(RollupDelta).where(one_of(col(RollupDelta.delta_id), "delta_ids")))

_HOURS = unnested(
    "given", col(RollupHour.series_id), col(RollupHour.hour), col(RollupHour.events), col(RollupHour.amount)
)
_NEW_HOURS = insert(RollupHour).from_select([each.name for each in _HOURS.c], select(*_HOURS.c))
_ADD_HOURS = statement(
    _NEW_HOURS.on_conflict_do_update(
        index_elements=["series_id", "hour"],
        set_={
            "events": col(RollupHour.events) + _NEW_HOURS.excluded.events,
            # An hour has amounts in all of its events or in none.
            "amount": col(RollupHour.amount) + _NEW_HOURS.excluded.amount,
        },
    )
)
_DROP_EMPTY_HOURS = statement(
    delete(RollupHour).where(one_of(col(RollupHour.series_id), "series_ids"), col(RollupHour.events) == 0)
)
_SESSIONS = unnested("given", col(RollupSession.hour), col(RollupSession.sessions), col(RollupSession.seconds))
_NEW_SESSIONS = insert(RollupSession).from_select([each.name for each in _SESSIONS.c], select(*_SESSIONS.c))
_ADD_SESSIONS = statement(
    _NEW_SESSIONS.on_conflict_do_update(
        index_elements=["hour"],
        set_={
            "sessions": col(RollupSession.sessions) + _NEW_SESSIONS.excluded.sessions,
            "seconds": col(RollupSession.seconds) + _NEW_SESSIONS.excluded.seconds,
        },
    )
)
_DROP_EMPTY_SESSIONS = statement(
    delete(RollupSession).where(
        one_of(col(RollupSession.hour), "hours"), col(RollupSession.sessions) == 0, col(RollupSession.seconds) == 0
    )
)


@dataclass(frozen=True)
class Compacted:
    deltas: int
    events: int
    months: frozenset[date] = frozenset()
    """The months whose index has new runs."""


async def lock(connection: Connection) -> None:
    """Until the transaction ends, no other one folds deltas or changes what names people."""
    await _LOCK.execute(connection)


async def compact(connection: Connection, batch: int = BATCH) -> Compacted:
    """Fold the oldest waiting deltas in the caller's transaction, which does nothing else."""
    await use_background_settings(connection)
    await lock(connection)
    rows = await _WAITING.fetch(connection, limit=batch)
    taken, events = 0, 0
    while taken < len(rows) and (taken == 0 or events + rows[taken]["events"] <= EVENTS):
        events += rows[taken]["events"]
        taken += 1
    if not taken:
        return Compacted(0, 0)
    known = await series.find(connection, {number for row in rows[:taken] for number in _series_of(row)})
    delta = joined([unpacked(dict(row)) for row in rows[:taken]])
    added, removed = entries.of_delta(delta)
    runs = list(_runs(added, known))
    await _add_counts(connection, delta)
    await index.add(connection, runs)
    await _remove(connection, removed, known)
    await people.change(connection, dict(groups(added, known)), {})
    await _DELETE.execute(connection, delta_ids=[row["delta_id"] for row in rows[:taken]])
    return Compacted(taken, events, frozenset(month for _, month, *_ in runs))


async def merge(connection: Connection, months: Collection[date]) -> int:
    """Merge runs of the index in the caller's transaction; returns the number of groups."""
    await use_background_settings(connection)
    await lock(connection)
    return await index.merge(connection, months)


def _series_of(row: Record) -> list[int]:
    found: list[int] = np.unique(np.frombuffer(row["series"], "<u4")).tolist()
    return found


def by_type(found: Entries, known: Mapping[int, Series]) -> Iterator[tuple[str, Entries]]:
    """Entries by event type, each ordered."""
    ids, places = np.unique(found.series, return_inverse=True)
    types = [known[each].event_type for each in ids.tolist()]
    codes = np.array([sorted(set(types)).index(each) for each in types], np.int64)[places]
    for code, event_type in enumerate(sorted(set(types))):
        yield event_type, found.where(codes == code).ordered()


def _runs(added: Entries, known: Mapping[int, Series]) -> Iterator[index.Run]:
    for event_type, found in by_type(added, known):
        for month, each in found.by_month():
            yield event_type, month, EVERYBODY, 0, each


async def _remove(connection: Connection, removed: Entries, known: Mapping[int, Series]) -> None:
    """Remove entries from the index. A person stays in the bitmaps for which another entry is left."""
    if not len(removed):
        return
    await index.remove(connection, list(by_type(removed, known)))
    months = [month for month, _ in removed.by_month()]
    left = [run for *_, run in await index.of_persons(connection, np.unique(removed.persons), months)]
    still = entries.joined(left) if left else removed.where(np.zeros(len(removed), bool))
    all_known = await series.find(connection, {*known, *np.unique(still.series).tolist()})
    kept = dict(groups(still, all_known))
    gone = {key: people_ - kept.get(key, BitMap()) for key, people_ in groups(removed, known)}
    await people.change(connection, {}, gone)


async def _add_counts(connection: Connection, delta: Delta) -> None:
    await add_hours(connection, rollups.hour_counts(delta))
    await add_sessions(connection, rollups.session_counts(delta))


async def add_hours(connection: Connection, hours: Sequence[rollups.HourCount]) -> None:
    if hours:
        await _ADD_HOURS.execute(
            connection,
            series_id=[each.series_id for each in hours],
            hour=[each.hour for each in hours],
            events=[each.events for each in hours],
            amount=[each.amount for each in hours],
        )
    # What corrections leave empty goes, so that the rows don't depend on how events were divided into deltas.
    if lessened := sorted({each.series_id for each in hours if each.events <= 0}):
        await _DROP_EMPTY_HOURS.execute(connection, series_ids=lessened)


async def add_sessions(connection: Connection, sessions: Sequence[tuple[datetime, int, Decimal]]) -> None:
    if sessions:
        await _ADD_SESSIONS.execute(
            connection,
            hour=[hour for hour, _, _ in sessions],
            sessions=[number for _, number, _ in sessions],
            seconds=[seconds for _, _, seconds in sessions],
        )
    if emptied := [hour for hour, number, _ in sessions if number <= 0]:
        await _DROP_EMPTY_SESSIONS.execute(connection, hours=emptied)
