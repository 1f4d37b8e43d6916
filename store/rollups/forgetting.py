"""Removes persons from the rollups: one who is erased, or all whose events have expired. Counts and sums stay.

:func:`forget` removes a person's number from waiting deltas, bitmaps and the index. What is left says how many
events there were, not whose. The caller has excluded the user's consent bucket, so no projector counts another
event of the user, and deletes the user's row in the same transaction. A compactor waits for that commit, or has
finished before: it folds either all of a person's deltas before, or deltas that name nobody.

:func:`expire` removes persons from days that have ended before a time.

Both are part of the caller's transaction: a crash before its commit changes nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from sqlalchemy import bindparam, delete, select, update
from sqlmodel import col

from models.rules import entries
from models.rules.bitmaps import groups
from models.rules.entries import Entries
from models.rules.rollups import EPOCH, HOUR, NOBODY
from models.tables.rollups import RollupDelta, RollupIndex
from store.connection import Connection
from store.rollups import compaction, index, people, series
from store.statements import statement

_WAITING = statement(select(col(RollupDelta.delta_id), col(RollupDelta.persons)))
_REWRITE = statement(
    update(RollupDelta).where(col(RollupDelta.delta_id) == bindparam("number")).values(persons=bindparam("packed"))
)
_EXPIRED_MONTHS = statement(
    delete(RollupIndex).where(col(RollupIndex.month) < bindparam("month")).returning(col(RollupIndex.run))
)
_TYPES_OF = statement(
    select(col(RollupIndex.event_type)).distinct().where(col(RollupIndex.month) == bindparam("month"))
)


async def forget(connection: Connection, person: int) -> None:
    """Remove a person from everything but counts and sums, in the caller's transaction."""
    await compaction.lock(connection)
    for row in await _WAITING.fetch(connection):
        persons = np.frombuffer(row["persons"], "<u4")
        if (persons == person).any():
            left = np.where(persons == person, NOBODY, persons).astype("<u4")
            await _REWRITE.execute(connection, number=row["delta_id"], packed=left.tobytes())
    found = [each for *_, each in await index.of_persons(connection, np.array([person], np.uint32))]
    if not found:
        return
    held = entries.joined(found)
    known = await series.find(connection, set(np.unique(held.series).tolist()))
    await people.change(connection, {}, dict(groups(held, known)))
    await index.forget(connection, person)


async def expire(connection: Connection, older_than: datetime) -> dict[str, int]:
    """Remove persons from the days that ended before a time; returns the rows by table.

    The month of the time loses the entries of these days.
    """
    await compaction.lock(connection)
    day = older_than.astimezone(UTC).date()
    month = day.replace(day=1)
    gone = {
        "rollup_people": await people.expire(connection, day),
        "rollup_index": await _EXPIRED_MONTHS.execute(connection, month=month),
    }
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    since = int((midnight - EPOCH).total_seconds()) // 3600 * HOUR

    def kept(found: Entries) -> Entries:
        return found.where(found.times >= since)

    for row in await _TYPES_OF.fetch(connection, month=month):
        await index.keep(connection, row["event_type"], month, kept)
    return gone
