"""The engagement score: how often somebody comes, and how long ago."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from models.rules.activity import Activity

NOW = datetime(2026, 3, 20, 15, 0, tzinfo=UTC)


def score(sessions: int, ago: timedelta) -> float | None:
    """The score of somebody who has had so many sessions, the last of them so long ago."""
    return Activity(session_count=sessions, last_session_date=NOW - ago).engagement_score(NOW, profiling=True)


def test_without_profiling_there_is_none_and_without_sessions_nothing() -> None:
    busy = Activity(session_count=9, last_session_date=NOW)
    assert busy.engagement_score(NOW, profiling=False) is None
    assert Activity().engagement_score(NOW, profiling=False) is None
    assert Activity().engagement_score(NOW, profiling=True) == 0.0


@pytest.mark.parametrize(("sessions", "expected"), [(1, 15.9), (4, 50.0), (8, 75.0), (10_000, 100.0)])
def test_it_grows_with_sessions_less_with_each(sessions: int, expected: float) -> None:
    assert score(sessions, timedelta(hours=1)) == expected


@pytest.mark.parametrize(("days", "expected"), [(0, 50.0), (7, 35.4), (14, 25.0), (28, 12.5), (3650, 0.0)])
def test_it_halves_with_every_fortnight_without_a_session(days: int, expected: float) -> None:
    assert score(4, timedelta(days=days)) == expected


def test_days_are_those_of_utc_and_a_session_ahead_is_one_of_today() -> None:
    tokyo = timezone(timedelta(hours=9))
    last = datetime(2026, 3, 7, 8, 0, tzinfo=tokyo)  # the 6th in UTC
    assert Activity(session_count=4, last_session_date=last).engagement_score(NOW, profiling=True) == 25.0
    assert score(4, timedelta(days=-1)) == 50.0
