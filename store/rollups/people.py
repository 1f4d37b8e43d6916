"""The bitmaps of the people who were active, by day. They hold what the index holds, and nothing else.

All functions that write need the lock of :mod:`store.rollups.compaction`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date

from pyroaring import BitMap
from sqlalchemy import bindparam, delete, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.rules.bitmaps import ANY, Group
from models.tables.rollups import RollupPeople
from store.connection import Connection
from store.statements import select, statement, unnested

_KEY = (
    *(col(RollupPeople.day), col(RollupPeople.event_type)),
    *(col(RollupPeople.dimension), col(RollupPeople.value)),
)
_ASKED = unnested("asked", *_KEY)
_FIND = statement(select(*_KEY, col(RollupPeople.people)).join(_ASKED, tuple_(*_KEY) == tuple_(*_ASKED.c)))
_GIVEN = unnested("given", *_KEY, col(RollupPeople.people))
_NEW = insert(RollupPeople).from_select([each.name for each in _GIVEN.c], select(*_GIVEN.c))
_WRITE = statement(
    _NEW.on_conflict_do_update(
        index_elements=["day", "event_type", "dimension", "value"], set_={"people": _NEW.excluded.people}
    )
)
_EMPTY = statement(delete(RollupPeople).where(tuple_(*_KEY).in_(select(*_ASKED.c))))
_DAYS = statement(
    select(col(RollupPeople.day), col(RollupPeople.people)).where(
        col(RollupPeople.day) >= bindparam("first"),
        col(RollupPeople.day) <= bindparam("last"),
        col(RollupPeople.event_type) == bindparam("event_type"),
        col(RollupPeople.dimension) == bindparam("dimension"),
        col(RollupPeople.value) == bindparam("value"),
    )
)
_EXPIRE = statement(delete(RollupPeople).where(col(RollupPeople.day) < bindparam("before")))


async def by_day(
    connection: Connection, first: date, last: date, event_type: str = ANY, dimension: str = "", value: str = ""
) -> dict[date, BitMap]:
    """The people of each day that has any."""
    rows = await _DAYS.fetch(
        connection, first=first, last=last, event_type=event_type, dimension=dimension, value=value
    )
    return {row["day"]: BitMap.deserialize(row["people"]) for row in rows}


async def change(connection: Connection, added: Mapping[Group, BitMap], removed: Mapping[Group, BitMap]) -> None:
    """Remove people from bitmaps, then add people. A bitmap without people goes."""
    keys = sorted({*added, *removed})
    if not keys:
        return
    rows = await _FIND.fetch(connection, **_columns(keys))
    stored = {Group(*row[:4]): BitMap.deserialize(row["people"]) for row in rows}
    written, emptied = {}, []
    nobody = BitMap()
    for key in keys:
        before = stored.get(key, nobody)
        after = (before - removed.get(key, nobody)) | added.get(key, nobody)
        if not after and key in stored:
            emptied.append(key)
        elif after != before:
            written[key] = after.serialize()
    if written:
        await _WRITE.execute(connection, **_columns(written), people=list(written.values()))
    if emptied:
        await _EMPTY.execute(connection, **_columns(emptied))


async def expire(connection: Connection, before: date) -> int:
    """Delete the bitmaps of the days before a day."""
    return await _EXPIRE.execute(connection, before=before)


def _columns(keys: Iterable[Group]) -> dict[str, list[object]]:
    held = list(keys)
    return {name: [getattr(key, name) for key in held] for name in Group._fields}
