"""Appends what a transaction changes in the rollups, as one row.

No row is updated, and each transaction inserts a row of its own. So the shards never wait for each other, however
hot an hour or a series is. :mod:`store.rollups.compaction` folds the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Integer, bindparam, func
from sqlalchemy.dialects.postgresql import insert

from models.rules.rollups import Counted, Delta, SessionChange, delta_of
from models.rules.series import SeriesKey
from models.tables.rollups import RollupDelta
from store.connection import Connection
from store.statements import parameters, select, statement

_CLASS = 0x726F_6C6C
"""The first key of these two-part advisory locks ("roll"); the second is the shard."""
_SHARE = statement(select(func.pg_advisory_xact_lock_shared(_CLASS, bindparam("shard", type_=Integer))))
_EXCLUDE = statement(select(func.pg_advisory_xact_lock(_CLASS, bindparam("shard", type_=Integer))))
_APPEND = statement(
    insert(RollupDelta).values(
        parameters(
            *("shard", "events", "received_at", "series", "persons", "times", "flags"),
            *("money", "amounts", "sessions"),
        )
    )
)


async def share(connection: Connection, shard: int) -> None:
    """Keep the events of a shard from being redacted between their reading and the commit of their counts.

    Call it before the events are read, and before any other lock.
    """
    await _SHARE.execute(connection, shard=shard)


async def exclude(connection: Connection, shard: int) -> None:
    """Wait for the transactions that count events of a shard. Then its cursor says which events are counted.

    Call it before the events and the cursor are read, and before any other lock.
    """
    await _EXCLUDE.execute(connection, shard=shard)


async def write(
    connection: Connection,
    shard: int,
    events: Sequence[Counted],
    series: Mapping[SeriesKey, int],
    persons: Mapping[str, int],
    received_at: datetime,
    sessions: Iterable[SessionChange] = (),
) -> None:
    """Append what events and sessions add; ``received_at`` is when the first was received."""
    changes = list(sessions)
    if not events and not changes:
        return
    await append(connection, shard, delta_of(events, series, persons, changes), received_at)


async def append(connection: Connection, shard: int, delta: Delta, received_at: datetime) -> None:
    await _APPEND.execute(connection, shard=shard, received_at=received_at, **delta.packed())
