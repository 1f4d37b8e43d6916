"""The rollups computed anew over the events table, and as the compactor wrote them."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from pyroaring import BitMap

from models.rules.entries import unpack
from models.rules.rollups import EPOCH
from runtime.database import Database
from store.connection import Connection
from store.rollups import compaction

HOURS = """
    SELECT e.event_type, coalesce(e.dimensions, '{}') || CASE WHEN t.currency IS NULL THEN '{}'
                                                              ELSE jsonb_build_object('currency', t.currency) END,
           date_trunc('hour', e.timestamp, 'UTC'), count(*), sum(t.amount)
      FROM events e LEFT JOIN transactions t USING (event_id)
     WHERE e.basis = 'consent'
       AND NOT EXISTS (SELECT FROM poison_events p WHERE p.event_id = e.event_id AND p.status <> 'replayed')
     GROUP BY 1, 2, 3"""
SESSIONS = """
    SELECT date_trunc('hour', first_at, 'UTC'), count(*), sum(extract(epoch FROM last_at - first_at))
      FROM sessions GROUP BY 1"""

_COUNTED = """
    SELECT u.person, e.event_type, e.timestamp, e.dimensions, NOT starts_with(e.session_id, 'workflow:') AS active
      FROM events e JOIN users u USING (user_id)
     WHERE e.basis = 'consent'
       AND NOT EXISTS (SELECT FROM poison_events p WHERE p.event_id = e.event_id AND p.status <> 'replayed')"""
PEOPLE = f"""
    SELECT DISTINCT c.timestamp::date, g.event_type, g.dimension, g.value, c.person
      FROM ({_COUNTED}) c
     CROSS JOIN LATERAL (VALUES ('*', '', ''), (c.event_type, '', ''),
                                ('*', 'country', c.dimensions ->> 'country'),
                                ('*', 'device_type', c.dimensions ->> 'device_type'))
                        AS g (event_type, dimension, value)
     WHERE c.active AND g.value IS NOT NULL"""

BITMAPS = "SELECT day, event_type, dimension, value, people FROM rollup_people"


def _set(rows: list[Any]) -> set[tuple[Any, ...]]:
    found = {tuple(map(_hashable, row)) for row in rows}
    assert len(found) == len(rows)
    return found


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return str(sorted(value.items()))
    return tuple(value) if isinstance(value, list) else value


async def plain(connection: Connection) -> dict[str, Any]:
    """What the rollups must hold, by SQL over the log and the sessions."""
    return {
        "hours": _set(await connection.fetch(HOURS)),
        "sessions": _set(await connection.fetch(SESSIONS)),
        "people": _set(await connection.fetch(PEOPLE)),
        "index": Counter(tuple(row)[:3] for row in await connection.fetch(_COUNTED)),
    }


async def stored(connection: Connection) -> dict[str, Any]:
    """What the compactor has written."""
    return {
        "hours": _set(
            await connection.fetch(
                """SELECT event_type, dimensions, hour, events, amount
                     FROM rollup_hours JOIN rollup_series USING (series_id)"""
            )
        ),
        "sessions": _set(await connection.fetch("SELECT hour, sessions, seconds FROM rollup_sessions")),
        "people": {
            (*row[:4], person)
            for row in await connection.fetch(BITMAPS)
            for person in BitMap.deserialize(row["people"])
        },
        "index": await _entries(connection),
    }


async def rows(connection: Connection, table: str) -> set[tuple[Any, ...]]:
    return _set(await connection.fetch(f"SELECT * FROM {table}"))


async def _entries(connection: Connection) -> Counter[tuple[Any, ...]]:
    found: Counter[tuple[Any, ...]] = Counter()
    for row in await connection.fetch("SELECT event_type, month, part, level, events, entries FROM rollup_index"):
        entries = unpack(row["entries"])
        assert len(entries) == row["events"]
        for person, time in zip(entries.persons.tolist(), entries.times.tolist(), strict=True):
            timestamp = EPOCH + timedelta(microseconds=time)
            assert timestamp.date().replace(day=1) == row["month"]
            assert row["part"] in (-1, person >> 14)
            found[(person, row["event_type"], timestamp)] += 1
    return found


async def compact(database: Database, batch: int = 32) -> int:
    """Fold all waiting deltas; returns the number of transactions."""
    number = 0
    while True:
        async with database.transaction() as connection:
            done = await compaction.compact(connection, batch)
        if not done.deltas:
            return number
        async with database.transaction() as connection:
            await compaction.merge(connection, done.months)
        number += 1
