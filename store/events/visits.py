"""Merges the visits of a batch of events with the stored ones, and adds the difference to the users' totals.

A batch reads the stored visits that it touches, compares in memory and writes what differs. Nothing changes the
visits of its users in between:

- Another worker on the shard has waited for the cursor's move before, and has read none.
- :func:`store.events.poison.replay` holds the consent bucket of its user exclusively, a projector those of its
  users in shared mode, each from before this read. Both read in a later statement (READ COMMITTED), so the second
  reads the visits of the first.
- An erasure holds the bucket exclusively before it destroys the data key; later batches skip the user.
- Retention deletes expired visits at any time, without these locks, and changes no total. If it deletes one
  between read and write, the write inserts it again, as if the batch had come first. If it comes before the read,
  the batch's events make a visit of their own, as if retention had come first.

Rows are written in the order of their keys, so that transactions on one user queue. Retention deletes in another
order. In case of a deadlock Postgres ends one transaction, and either is tried again as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Interval, Text, bindparam, cast, column, delete, func, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.rules.rollups import SessionChange
from models.rules.stages import Periods
from models.rules.visits import SessionKey, Span, Visits, VisitTotals, changes, spans_of
from models.tables.projections import Session, UserActivity
from store.connection import Connection
from store.statements import select, sql, statement, unnested

_MICROSECOND = timedelta(microseconds=1)


async def write(connection: Connection, visits: Visits, periods: Periods) -> list[SessionChange]:
    """Add a batch's visits and actions in the caller's transaction, which excludes others as described above.

    Returns the changes by the hours in which visits begin.

    The users are due for a sweep of lifecycle stages (:mod:`store.users.stage_sweeps`) when they may be at risk.
    """
    session_timeout = periods.session_timeout
    spans = spans_of(visits.times, session_timeout)
    stored = await _read_near(connection, spans, session_timeout)
    found = changes(spans, stored, visits.actions, session_timeout)
    await replace(connection, found.gone, found.kept)
    totals = columns(_TOTALS, sorted(map(_total, found.totals.items())))
    await _ADD_TOTALS.execute(connection, **totals, at_risk_after=periods.at_risk_after)
    return [
        SessionChange(hour, number, duration // _MICROSECOND)
        for hour, (number, duration) in found.hours.items()
        if number or duration
    ]


async def replace(
    connection: Connection,
    gone: Collection[tuple[str, str, datetime]],
    kept: Collection[tuple[str, str, datetime, datetime]],
) -> None:
    """Delete visits by their keys, and write others, as :class:`models.rules.visits.VisitChanges` has them."""
    if gone:
        await _DELETE.execute(connection, **columns(_SESSION[:3], sorted(gone)))
    if kept:
        await _UPSERT.execute(connection, **columns(_SESSION, sorted(kept)))


def columns(names: Sequence[str], rows: Collection[Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """The parameters of :func:`store.statements.unnested`; there is at least one row."""
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


# SQL text: a LATERAL over unnest. It reads the visits within the time-out of a span, given the longest span of
# the batch. The inner query finds the latest visit that begins before a span, by one index look-up. So the cost
# doesn't grow with the number of visits of a session id.
_READ = sql(
    """
    SELECT given.place, s.first_at, s.last_at
      FROM unnest(cast(:user_ids AS text[]), cast(:session_ids AS text[]), cast(:first_at AS timestamptz[]))
           WITH ORDINALITY AS given (user_id, session_id, first_at, place)
     CROSS JOIN LATERAL (
        SELECT first_at, last_at FROM sessions
         WHERE user_id = given.user_id AND session_id = given.session_id
           AND first_at < given.first_at + cast(:longest AS interval) + cast(:timeout AS interval)
           AND first_at >= coalesce(
               (SELECT max(b.first_at) FROM sessions AS b
                 WHERE b.user_id = given.user_id AND b.session_id = given.session_id
                   AND b.first_at <= given.first_at), given.first_at)
           AND last_at > given.first_at - cast(:timeout AS interval)
        OFFSET 0) AS s
    """
)
# Postgres keeps a connection's plan. One that it made for a table of one page would scan the grown table for each
# span, until the next ANALYZE. A join with the whole table would be as slow: so OFFSET 0, and this setting, which
# applies until the transaction ends.
_USE_INDEXES = statement(select(func.set_config("enable_seqscan", "off", True)))


async def _read_near(
    connection: Connection, spans: Mapping[SessionKey, list[Span]], session_timeout: timedelta
) -> dict[SessionKey, list[Span]]:
    """The stored visits within the time-out of a span, and perhaps some more; the same one may be there twice."""
    keys = list(spans)
    if any(len(each) > 1 for each in spans.values()):
        keys = [key for key, each in spans.items() for _ in each]
    await _USE_INDEXES.execute(connection)
    rows = await _READ.fetch(
        connection,
        user_ids=[key[0] for key in keys],
        session_ids=[key[1] for key in keys],
        first_at=[first for each in spans.values() for first, _ in each],
        longest=max(last - first for each in spans.values() for first, last in each),
        timeout=session_timeout,
    )
    found: dict[SessionKey, list[Span]] = {}
    for place, first, last in rows:
        found.setdefault(keys[place - 1], []).append((first, last))
    return found


_GONE = unnested("gone", col(Session.user_id), col(Session.session_id), col(Session.first_at))
_KEY = (col(Session.user_id), col(Session.session_id), col(Session.first_at))
_DELETE = statement(delete(Session).where(tuple_(*_KEY).in_(select(*_GONE.c))))

_SESSION = ("user_id", "session_id", "first_at", "last_at")
_GIVEN = unnested("given", *_KEY, col(Session.last_at))
_NEW = insert(Session).from_select(_SESSION, select(*_GIVEN.c))
_UPSERT = statement(
    _NEW.on_conflict_do_update(index_elements=_SESSION[:3], set_={"last_at": _NEW.excluded.last_at})
)

_TOTALS = (
    "user_id",
    "last_session_date",
    "session_count",
    "total_session_seconds",
    "decayed_sessions",
    "decayed_actions",
)
# Numbers travel as text, which asyncpg encodes several times faster.
_NUMBERS = _TOTALS[2:]
_ADDED = unnested(
    "added",
    *(col(UserActivity.user_id), col(UserActivity.last_session_date)),
    *(column(name, Text) for name in _NUMBERS),
)
_AT_RISK_AFTER = bindparam("at_risk_after", type_=Interval())
_ACTIVITY = insert(UserActivity).from_select(
    (*_TOTALS[:2], "stage_due_at", *_NUMBERS),
    select(
        *(_ADDED.c.user_id, _ADDED.c.last_session_date, _ADDED.c.last_session_date + _AT_RISK_AFTER),
        *(cast(_ADDED.c[name], getattr(UserActivity, name).type) for name in _NUMBERS),
    ),
)
_HAD, _NOW = UserActivity, _ACTIVITY.excluded
_LAST = func.greatest(col(_HAD.last_session_date), _NOW.last_session_date)
_ADD_TOTALS = statement(
    _ACTIVITY.on_conflict_do_update(
        index_elements=["user_id"],
        set_={
            "session_count": col(_HAD.session_count) + _NOW.session_count,
            "last_session_date": _LAST,
            # An earlier time stays: the sweep then finds when the user is really due.
            "stage_due_at": func.least(col(_HAD.stage_due_at), _LAST + _AT_RISK_AFTER),
            # Rounded to microseconds, so that a sum of floats doesn't depend on its order.
            "total_session_seconds": func.round(
                (col(_HAD.total_session_seconds) + _NOW.total_session_seconds) * 1e6
            )
            / 1e6,
            "decayed_sessions": col(_HAD.decayed_sessions) + _NOW.decayed_sessions,
            "decayed_actions": col(_HAD.decayed_actions) + _NOW.decayed_actions,
            "updated_at": func.now(),
        },
    )
)


def _total(of_user: tuple[str, VisitTotals]) -> tuple[Any, ...]:
    """The values of :data:`_TOTALS`."""
    user_id, totals = of_user
    seconds = str(totals.duration.total_seconds()) if totals.duration else "0"
    return user_id, totals.last_at, str(totals.count), seconds, str(totals.sessions), str(totals.actions)
