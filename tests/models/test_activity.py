"""The engagement score."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest

from models.rules.activity import Activity

NOW = datetime(2026, 3, 20, 15, 0, tzinfo=UTC)


def score(sessions: int, ago: timedelta) -> float | None:
    """The score after ``sessions``, the last of them ``ago``."""
    return Activity(session_count=sessions, last_session_date=NOW - ago).engagement_score(NOW, profiling=True)


def test_the_score_is_none_without_profiling_and_zero_without_sessions() -> None:
    busy = Activity(session_count=9, last_session_date=NOW)
    assert busy.engagement_score(NOW, profiling=False) is None
    assert Activity().engagement_score(NOW, profiling=False) is None
    assert Activity().engagement_score(NOW, profiling=True) == 0.0


@pytest.mark.parametrize(("sessions", "expected"), [(1, 15.9), (4, 50.0), (8, 75.0), (10_000, 100.0)])
def test_the_score_grows_with_each_session_by_less(sessions: int, expected: float) -> None:
    assert score(sessions, timedelta(hours=1)) == expected


@pytest.mark.parametrize(("days", "expected"), [(0, 50.0), (7, 35.4), (14, 25.0), (28, 12.5), (3650, 0.0)])
def test_the_score_halves_every_14_days_without_a_session(days: int, expected: float) -> None:
    assert score(4, timedelta(days=days)) == expected


def test_days_are_utc_days_and_a_future_session_counts_as_today() -> None:
    tokyo = timezone(timedelta(hours=9))
    last = datetime(2026, 3, 7, 8, 0, tzinfo=tokyo)  # the 6th in UTC
    assert Activity(session_count=4, last_session_date=last).engagement_score(NOW, profiling=True) == 25.0
    assert score(4, timedelta(days=-1)) == 50.0


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose local day differs from the UTC day for half of it."""
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_away")
def test_days_are_utc_days_on_a_machine_of_another_zone() -> None:
    morning = datetime(2026, 3, 6, 1, tzinfo=UTC)
    evening = datetime(2026, 3, 20, 23, tzinfo=UTC)
    for last, now in ((morning, evening), (morning.replace(hour=23), evening.replace(hour=1))):
        found = Activity(session_count=4, last_session_date=last).engagement_score(now, profiling=True)
        assert found == 25.0
