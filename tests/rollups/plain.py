"""The rollups computed anew over the events table, and as the compactor wrote them."""

from __future__ import annotations

from typing import Any

from store.connection import Connection

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


def _set(rows: list[Any]) -> set[tuple[Any, ...]]:
    found = {tuple(map(_hashable, row)) for row in rows}
    assert len(found) == len(rows)
    return found


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return str(sorted(value.items()))
    return tuple(value) if isinstance(value, list) else value


async def plain(connection: Connection) -> dict[str, set[tuple[Any, ...]]]:
    """What the rollups must hold, by SQL over the log and the sessions."""
    return {
        "hours": _set(await connection.fetch(HOURS)),
        "sessions": _set(await connection.fetch(SESSIONS)),
    }


async def stored(connection: Connection) -> dict[str, set[tuple[Any, ...]]]:
    """What the compactor has written."""
    return {
        "hours": _set(
            await connection.fetch(
                """SELECT event_type, dimensions, hour, events, amount
                     FROM rollup_hours JOIN rollup_series USING (series_id)"""
            )
        ),
        "sessions": _set(await connection.fetch("SELECT hour, sessions, seconds FROM rollup_sessions")),
    }


async def rows(connection: Connection, table: str) -> set[tuple[Any, ...]]:
    return _set(await connection.fetch(f"SELECT * FROM {table}"))
