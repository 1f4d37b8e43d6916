"""Packs what events add to the rollups, and folds it into counts by hour.

A :class:`Delta` has an entry for each event, in little-endian arrays of numpy. Folding only adds. So the result
depends neither on the order of the events nor on their division into deltas.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from models.rules.folding import WORKFLOW_SESSION, LogEvent, Projection, TransactionEntry
from models.rules.series import SeriesKey

ACTIVITY = 1
"""Flag: the person was active. Events that workflows record lack it."""
MINUS = 2
"""Flag: subtract the event."""
NOBODY = 0
"""The person of events that have none, or an erased one."""
HOUR = 3600 * 1_000_000
DAY = 24 * HOUR

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EXACT = Context(prec=100)  # more digits than any sum of amounts has

U32: TypeAlias = "npt.NDArray[np.uint32]"
U8: TypeAlias = "npt.NDArray[np.uint8]"
I64: TypeAlias = "npt.NDArray[np.int64]"


class SessionChange(NamedTuple):
    """The change of the sessions that began in an hour."""

    hour: int
    """Hours since 1970."""
    sessions: int
    microseconds: int


class Counted(NamedTuple):
    """An event as the rollups count it."""

    key: SeriesKey
    user_id: str
    timestamp: datetime
    flags: int
    amount: Decimal | None


@dataclass(frozen=True)
class Delta:
    """Events by column, and changes of sessions."""

    series: U32
    persons: U32
    times: I64
    """Microseconds since 1970."""
    flags: U8
    money: U32
    """Places of the events with an amount."""
    amounts: Sequence[Decimal]
    sessions: I64
    """Rows of :class:`SessionChange`."""

    def packed(self) -> dict[str, Any]:
        """The columns of a row."""
        return {
            "events": len(self.series),
            "series": self.series.astype("<u4").tobytes(),
            "persons": self.persons.astype("<u4").tobytes(),
            "times": self.times.astype("<i8").tobytes(),
            "flags": self.flags.tobytes(),
            "money": self.money.astype("<u4").tobytes(),
            "amounts": list(self.amounts),
            "sessions": self.sessions.astype("<i8").tobytes(),
        }


def unpacked(row: Mapping[str, Any]) -> Delta:
    """The delta of a row with the columns of :meth:`Delta.packed`."""
    return Delta(
        series=np.frombuffer(row["series"], "<u4"),
        persons=np.frombuffer(row["persons"], "<u4"),
        times=np.frombuffer(row["times"], "<i8"),
        flags=np.frombuffer(row["flags"], np.uint8),
        money=np.frombuffer(row["money"], "<u4"),
        amounts=row["amounts"],
        sessions=np.frombuffer(row["sessions"], "<i8").reshape(-1, 3),
    )


def joined(deltas: Sequence[Delta]) -> Delta:
    """One delta that has the same effect as several."""
    starts = np.cumsum([0, *(len(each.series) for each in deltas[:-1])])
    return Delta(
        series=np.concatenate([each.series for each in deltas]),
        persons=np.concatenate([each.persons for each in deltas]),
        times=np.concatenate([each.times for each in deltas]),
        flags=np.concatenate([each.flags for each in deltas]),
        money=np.concatenate([each.money + np.uint32(start) for each, start in zip(deltas, starts, strict=True)]),
        amounts=[amount for each in deltas for amount in each.amounts],
        sessions=np.concatenate([each.sessions for each in deltas]),
    )


def counted(events: Iterable[LogEvent], projection: Projection) -> list[Counted]:
    """The events that the rollups count: those of consent. Other bases serve transactions alone."""
    transactions = projection.transactions
    return [
        of_event(
            event.event_type,
            event.dimensions,
            event.user_id,
            event.timestamp,
            event.session_id,
            transactions.get(event.event_id),
        )
        for event in events
        if event.consented
    ]


def of_event(
    event_type: str,
    dimensions: str | None,
    user_id: str,
    timestamp: datetime,
    session_id: str,
    transaction: TransactionEntry | None,
) -> Counted:
    flags = 0 if session_id.startswith(WORKFLOW_SESSION) else ACTIVITY
    if transaction is None:
        return Counted(SeriesKey(event_type, dimensions), user_id, timestamp, flags, None)
    key = SeriesKey(event_type, dimensions, transaction.currency)
    return Counted(key, user_id, timestamp, flags, transaction.amount)


def delta_of(
    events: Sequence[Counted],
    series: Mapping[SeriesKey, int],
    persons: Mapping[str, int],
    sessions: Sequence[SessionChange] = (),
) -> Delta:
    """The delta of events; ``series`` has all their keys. A user without a number counts as :data:`NOBODY`."""
    money = [place for place, each in enumerate(events) if each.amount is not None]
    return Delta(
        series=np.array([series[each.key] for each in events], np.uint32),
        persons=np.array([persons.get(each.user_id, NOBODY) for each in events], np.uint32),
        times=np.array([(each.timestamp - EPOCH) // _MICROSECOND for each in events], np.int64),
        flags=np.array([each.flags for each in events], np.uint8),
        money=np.array(money, np.uint32),
        amounts=[each.amount for each in events if each.amount is not None],
        sessions=np.array(sessions, np.int64).reshape(-1, 3),
    )


class HourCount(NamedTuple):
    """The change of a series in an hour."""

    series_id: int
    hour: datetime
    events: int
    amount: Decimal | None


def hour_counts(delta: Delta) -> list[HourCount]:
    """Events and amounts by series and hour, in their order."""
    if not len(delta.series):
        return []
    keys = (delta.series.astype(np.int64) << 32) | (delta.times // HOUR)
    found, places = np.unique(keys, return_inverse=True)
    signs = _signs(delta.flags)
    sums = np.bincount(places, signs, len(found)).astype(np.int64)
    amounts: dict[int, Decimal] = defaultdict(Decimal)
    for row, amount in zip(delta.money.tolist(), delta.amounts, strict=True):
        place = int(places[row])
        amounts[place] = (_EXACT.add if signs[row] > 0 else _EXACT.subtract)(amounts[place], amount)
    return [
        HourCount(key >> 32, hour_of(key & 0xFFFF_FFFF), events, amounts.get(place))
        for place, (key, events) in enumerate(zip(found.tolist(), sums.tolist(), strict=True))
        if events or place in amounts
    ]


def session_counts(delta: Delta) -> list[tuple[datetime, int, Decimal]]:
    """Changes of sessions, and of their seconds, by hour in order."""
    found: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for hour, sessions, microseconds in delta.sessions.tolist():
        found[hour][0] += sessions
        found[hour][1] += microseconds
    return [
        (hour_of(hour), sessions, Decimal(microseconds).scaleb(-6, _EXACT))
        for hour, (sessions, microseconds) in sorted(found.items())
        if sessions or microseconds
    ]


def hour_of(hours: int) -> datetime:
    """The time of an hour since 1970."""
    return EPOCH + timedelta(hours=hours)


def _signs(flags: U8) -> I64:
    return np.where(flags & MINUS, -1, 1).astype(np.int64)
