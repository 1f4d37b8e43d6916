"""Visits: the sessions of a profile. A session id is used for one visit until a time-out without an event.

The events of a user and session id, in the order of their timestamps, form one visit as long as each follows the
one before within the time-out. So visits are a function of the set of events: their order of arrival, and their
division into batches, don't matter. A batch is merged with the stored visits that it touches. Of one session id
two stored visits are always at least the time-out apart, so no other visit can be concerned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from models.rules.engagement import ACTION_WEIGHTS, OTHER_WEIGHT, forward_weight

SESSION_TIMEOUT: Final = timedelta(minutes=30)
"""The default of `PERENNIAL_SESSION_TIMEOUT`."""

_EPOCH, _HOUR = datetime(1970, 1, 1, tzinfo=UTC), timedelta(hours=1)
_NOTHING = (0, timedelta())

SessionKey = tuple[str, str]
"""User id and session id."""
Span = tuple[datetime, datetime]
"""The times of the first and the last event."""


@dataclass(slots=True)
class Visits:
    """What the events of a batch say about sessions."""

    times: dict[SessionKey, list[datetime]] = field(default_factory=dict)
    """The timestamps of the events, in any order."""
    actions: dict[str, int] = field(default_factory=dict)
    """By user id: the sum of forward weights of their actions."""

    def add(self, user_id: str, session_id: str, event_type: str, timestamp: datetime) -> None:
        key = (user_id, session_id)
        times = self.times.get(key)
        if times is None:
            self.times[key] = [timestamp]
        else:
            times.append(timestamp)
        weight = ACTION_WEIGHTS.get(event_type, OTHER_WEIGHT)
        if weight:
            self.actions[user_id] = self.actions.get(user_id, 0) + weight * forward_weight(timestamp)


@dataclass(slots=True)
class VisitTotals:
    """What a batch adds to the totals of one user. Numbers are negative if it joins visits."""

    last_at: datetime
    count: int = 0
    duration: timedelta = timedelta()
    sessions: int = 0
    """Forward weights of the visits' beginnings."""
    actions: int = 0
    """Forward weights of actions."""


@dataclass(slots=True)
class VisitChanges:
    """The difference between the stored visits and those after a batch."""

    gone: list[tuple[str, str, datetime]] = field(default_factory=list)
    """Key (user id, session id, first time) of visits that no longer begin there."""
    kept: list[tuple[str, str, datetime, datetime]] = field(default_factory=list)
    """New and longer visits: user id, session id, first and last time."""
    totals: dict[str, VisitTotals] = field(default_factory=dict)
    """By user id."""
    hours: dict[int, tuple[int, timedelta]] = field(default_factory=dict)
    """By the hour in which visits begin, in hours since 1970: what their number and duration gain."""

    def count(self, first: datetime, visits: int, duration: timedelta) -> None:
        hour = (first - _EPOCH) // _HOUR
        held, gained = self.hours.get(hour, _NOTHING)
        self.hours[hour] = held + visits, gained + duration


def spans_of(times: Mapping[SessionKey, list[datetime]], timeout: timedelta) -> dict[SessionKey, list[Span]]:
    """The visits that the times form by themselves, in order. Sorts the lists in place."""
    spans: dict[SessionKey, list[Span]] = {}
    for key, moments in times.items():
        if len(moments) == 1:
            spans[key] = [(moments[0], moments[0])]
        else:
            spans[key] = joined(((moment, moment) for moment in sorted(moments)), timeout)
    return spans


def joined(ordered: Iterable[Span], timeout: timedelta) -> list[Span]:
    """Join spans, ordered by their first time, between which less than the time-out passes."""
    joined: list[Span] = []
    for first, last in ordered:
        if joined and first - joined[-1][1] < timeout:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined


def changes(
    spans: Mapping[SessionKey, list[Span]],
    stored: Mapping[SessionKey, list[Span]],
    actions: Mapping[str, int],
    timeout: timedelta,
) -> VisitChanges:
    """Merge a batch's visits with the stored ones within the time-out of them. ``stored`` may have others too."""
    found = VisitChanges()
    kept, all_totals = found.kept, found.totals
    for key, new in spans.items():
        user_id, latest = key[0], new[-1][1]
        totals = all_totals.get(user_id)
        if totals is None:
            totals = all_totals[user_id] = VisitTotals(latest, actions=actions.get(user_id, 0))
        elif totals.last_at < latest:
            totals.last_at = latest
        before = stored.get(key)
        if before is not None and len(before) == len(new) == 1 and _goes_on(before[0], new[0], timeout):
            # as _compare, for the usual case
            first, last = before[0]
            if last < latest:
                kept.append((user_id, key[1], first, latest))
                totals.duration += latest - last
                found.count(first, 0, latest - last)
            continue
        if before is not None:
            _compare(found, totals, key, dict(before), dict(joined(sorted([*before, *new]), timeout)))
            continue
        totals.count += len(new)
        for first, last in new:
            kept.append((user_id, key[1], first, last))
            totals.sessions += forward_weight(first)
            totals.duration += last - first
            found.count(first, 1, last - first)
    return found


def _goes_on(stored: Span, new: Span, timeout: timedelta) -> bool:
    return stored[0] <= new[0] and new[0] - stored[1] < timeout


def _compare(
    found: VisitChanges,
    totals: VisitTotals,
    key: SessionKey,
    before: Mapping[datetime, datetime],
    after: Mapping[datetime, datetime],
) -> None:
    """Add the difference of one session id. ``before`` and ``after`` have the last by the first time."""
    if before == after:
        return
    totals.count += len(after) - len(before)
    for first, last in after.items():
        if before.get(first) != last:
            found.kept.append((*key, first, last))
            totals.duration += last - first
            found.count(first, 1, last - first)
        if first not in before:
            totals.sessions += forward_weight(first)
    for first, last in before.items():
        if after.get(first) != last:
            totals.duration -= last - first
            found.count(first, -1, first - last)
        if first not in after:
            found.gone.append((*key, first))
            totals.sessions -= forward_weight(first)
