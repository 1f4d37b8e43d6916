"""Recomputes a month of the rollups from the log, and replaces its rows.

The rollups and the waiting deltas of one snapshot are what the log of that snapshot makes: a projector, a replay
and a redaction commit their delta together with its cause. So :func:`rebuild_month` needs a REPEATABLE READ
transaction, in a session that holds the compactor's lock (:func:`pause`) from before it until after its commit:

1. It folds the events of the month up to the cursors, without a write.
2. It folds the waiting deltas that it sees as the compactor does, also those of other months, and deletes them.
3. It compares the rows of the month, and replaces those that differ.

Deltas that it doesn't see were committed later. They wait, and come on top: none is lost or counted twice. That
holds for corrections by redactions too, since the snapshot has their events as they were before. An erasure and
retention wait for the compactor's lock, and then change the new rows. A crash before the commit changes nothing.

Events of users without a data key aren't counted. So the counts of erased people go from the months that are
rebuilt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
from pyroaring import BitMap
from sqlalchemy import bindparam, delete, func
from sqlmodel import col

from models.rules import entries as packing
from models.rules.bitmaps import Group, Series, groups
from models.rules.entries import Entries, net
from models.rules.folding import Projection
from models.rules.rollups import EPOCH, Delta, HourCount, counted, delta_of, hour_counts, joined
from models.rules.series import SeriesKey
from models.tables.events import PoisonEvent
from models.tables.people import User
from models.tables.projections import Session
from models.tables.rollups import RollupHour, RollupIndex, RollupPeople, RollupSession
from models.temporal.system import PROJECTOR
from privacy.encryption import Cipher, DecryptionError
from store.connection import Connection
from store.events import log
from store.rollups import compaction, index, people, series
from store.statements import one_of, select, statement
from store.users import data_keys

CHUNK = 5000
_DAY = timedelta(days=1)


class UnreadableEventsError(Exception):
    """An event of the month can't be decrypted or used: the month stays as it is."""


@dataclass(frozen=True)
class Month:
    """What of a month is rebuilt: the days from ``since`` on, which begins a day."""

    first: date
    since: datetime
    until: datetime

    @classmethod
    def of(cls, begins: datetime, kept_since: datetime) -> Month | None:
        """The days of a month after a time; None if it has none."""
        until = begins.replace(year=begins.year + begins.month // 12, month=begins.month % 12 + 1)
        since = max(begins, _next_midnight(kept_since))
        return cls(begins.date(), since, until) if since < until else None


def _next_midnight(time: datetime) -> datetime:
    midnight = time.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight if midnight == time else midnight + _DAY


@dataclass(frozen=True)
class RebuiltMonth:
    events: int
    differing: int
    """Rows of hours, sessions and bitmaps, and entries of the index."""


async def rebuild_month(
    connection: Connection, cipher: Cipher, month: Month, dimension_values: int
) -> RebuiltMonth:
    """In the caller's transaction, as described above. Raises :class:`UnreadableEventsError`."""
    delta, keys = await _fold(connection, cipher, month)
    rows = await _COUNT_SESSIONS.fetch(connection, since=month.since, until=month.until)
    while (await compaction.compact(connection)).deltas:
        pass
    if keys:
        _, ids = await series.register(connection, keys, dimension_values)
        numbers = np.array([ids[key] for key in keys], np.uint32)
        delta = replace(delta, series=numbers[delta.series])
    wanted = packing.of_delta(delta)[0].ordered()
    known = await series.find(connection, set(np.unique(wanted.series).tolist()))
    differing = await _replace_hours(connection, month, hour_counts(delta))
    differing += await _replace_sessions(connection, month, [(hour, number, sum_) for hour, number, sum_ in rows])
    differing += await _replace_index(connection, month, wanted, known)
    differing += await _replace_people(connection, month, wanted, known)
    return RebuiltMonth(len(delta.series), differing)


async def _fold(connection: Connection, cipher: Cipher, month: Month) -> tuple[Delta, list[SeriesKey]]:
    """The events of the month that are counted. ``series`` of the delta are places in the list of keys."""
    aside = {row[0] for row in await _SET_ASIDE.fetch(connection)}
    numbers: dict[SeriesKey, int] = {}
    folded = [delta_of([], {}, {})]
    async for chunk in log.read_consumed_between(connection, PROJECTOR, month.since, month.until, CHUNK):
        user_ids = list({each.user_id for each in chunk})
        keys = await data_keys.find_each(connection, cipher, user_ids)
        persons = {row[0]: row[1] for row in await _PERSONS.fetch(connection, user_ids=user_ids)}
        events, projection = [], Projection()
        for each in chunk:
            key = keys.get(each.user_id)
            if isinstance(key, DecryptionError):
                raise UnreadableEventsError
            event = each.decrypted_with(key)
            if key is None or event.event_id in aside or not event.consented:
                continue
            try:
                projection.add(event)
            except Exception:  # noqa: BLE001 - any error of the pure code comes from the event
                raise UnreadableEventsError from None
            events.append(event)
        found = counted(events, projection)
        for each_counted in found:
            numbers.setdefault(each_counted.key, len(numbers))
        folded.append(delta_of(found, numbers, persons))
    return joined(folded), list(numbers)


_SET_ASIDE = statement(
    select(col(PoisonEvent.event_id)).where(
        col(PoisonEvent.consumer) == PROJECTOR, col(PoisonEvent.status) != "replayed"
    )
)
_PERSONS = statement(select(col(User.user_id), col(User.person)).where(one_of(col(User.user_id), "user_ids")))
_HOUR = func.date_trunc("hour", col(Session.first_at), "UTC")
_COUNT_SESSIONS = statement(
    select(_HOUR, func.count(), func.sum(func.extract("epoch", col(Session.last_at) - col(Session.first_at))))
    .where(col(Session.first_at) >= bindparam("since"), col(Session.first_at) < bindparam("until"))
    .group_by(_HOUR)
)


def _within(time: Any) -> tuple[Any, Any]:
    return time >= bindparam("since"), time < bindparam("until")


_HOURS = statement(
    select(
        *(col(RollupHour.series_id), col(RollupHour.hour), col(RollupHour.events), col(RollupHour.amount))
    ).where(*_within(col(RollupHour.hour)))
)
_DELETE_HOURS = statement(delete(RollupHour).where(*_within(col(RollupHour.hour))))
_SESSIONS = statement(
    select(col(RollupSession.hour), col(RollupSession.sessions), col(RollupSession.seconds)).where(
        *_within(col(RollupSession.hour))
    )
)
_DELETE_SESSIONS = statement(delete(RollupSession).where(*_within(col(RollupSession.hour))))
_PEOPLE = statement(
    select(
        *(col(RollupPeople.day), col(RollupPeople.event_type), col(RollupPeople.dimension)),
        *(col(RollupPeople.value), col(RollupPeople.people)),
    ).where(*_within(col(RollupPeople.day)))
)
_DELETE_PEOPLE = statement(delete(RollupPeople).where(*_within(col(RollupPeople.day))))
_INDEX = statement(
    select(col(RollupIndex.event_type), col(RollupIndex.entries)).where(
        col(RollupIndex.month) == bindparam("month")
    )
)
_DELETE_INDEX = statement(delete(RollupIndex).where(col(RollupIndex.month) == bindparam("month")))


async def _replace_hours(connection: Connection, month: Month, wanted: Sequence[HourCount]) -> int:
    within = {"since": month.since, "until": month.until}
    stored = {HourCount(*row) for row in await _HOURS.fetch(connection, **within)}
    differing = len(stored ^ set(wanted))
    if differing:
        await _DELETE_HOURS.execute(connection, **within)
        await compaction.add_hours(connection, wanted)
    return differing


async def _replace_sessions(
    connection: Connection, month: Month, wanted: Sequence[tuple[datetime, int, Decimal]]
) -> int:
    within = {"since": month.since, "until": month.until}
    stored = {tuple(row) for row in await _SESSIONS.fetch(connection, **within)}
    differing = len(stored ^ set(wanted))
    if differing:
        await _DELETE_SESSIONS.execute(connection, **within)
        await compaction.add_sessions(connection, wanted)
    return differing


async def _replace_index(
    connection: Connection, month: Month, wanted: Entries, known: Mapping[int, Series]
) -> int:
    """Entries of the month from before ``month.since`` stay."""
    since = (month.since - EPOCH) // timedelta(microseconds=1)
    stored: dict[str, list[Entries]] = defaultdict(list)
    for event_type, packed in await _INDEX.fetch(connection, month=month.first):
        stored[event_type].append(packing.unpack(packed))
    new = dict(compaction.by_type(wanted, known))
    nothing = wanted.where(slice(0, 0))
    runs: list[index.Run] = []
    differing = 0
    for event_type in sorted(stored.keys() | new.keys()):
        had = packing.joined([nothing, *stored[event_type]])
        more, less = net(new.get(event_type, nothing), had.where(had.times >= since))
        differing += len(more) + len(less)
        all_ = packing.joined([had.where(had.times < since), new.get(event_type, nothing)]).ordered()
        runs += [(event_type, month.first, part, 1, each) for part, each in all_.parts()]
    if differing:
        await _DELETE_INDEX.execute(connection, month=month.first)
        await index.add(connection, runs)
    return differing


async def _replace_people(
    connection: Connection, month: Month, wanted: Entries, known: Mapping[int, Series]
) -> int:
    within = {"since": month.since.date(), "until": month.until.date()}
    stored = {Group(*row[:4]): BitMap.deserialize(row[4]) for row in await _PEOPLE.fetch(connection, **within)}
    new = dict(groups(wanted, known))
    differing = sum(stored.get(key) != new.get(key) for key in stored.keys() | new.keys())
    if differing:
        await _DELETE_PEOPLE.execute(connection, **within)
        await people.change(connection, new, {})
    return differing


_PAUSE = statement(select(func.pg_advisory_lock(compaction.LOCK)))
_RESUME = statement(select(func.pg_advisory_unlock(compaction.LOCK)))


async def pause(connection: Connection) -> None:
    """Keep all compactors waiting until :func:`resume`, or until the session ends."""
    await _PAUSE.execute(connection)


async def resume(connection: Connection) -> None:
    await _RESUME.execute(connection)
