"""The engagement score of an activity, and its terms."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.rules import engagement
from models.rules.activity import Activity
from models.rules.engagement import LANDMARK, Engagement, decayed, forward_weight

NOW = datetime(2026, 3, 20, 15, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def activity(sessions: int, actions: int, ago: timedelta) -> Activity:
    """That many sessions and actions of weight 1, all of them ``ago``."""
    weight = forward_weight(NOW - ago)
    return Activity(sessions, NOW - ago, 0.0, sessions * weight, actions * weight)


def score(sessions: int, actions: int, ago: timedelta = timedelta()) -> float | None:
    return activity(sessions, actions, ago).engagement_score(NOW, profiling=True)


def test_the_score_is_none_without_profiling_and_zero_without_sessions() -> None:
    busy = activity(9, 90, timedelta())
    assert busy.engagement_score(NOW, profiling=False) is None
    assert busy.engagement(NOW, profiling=False) is None
    assert Activity().engagement_score(NOW, profiling=False) is None
    assert Activity().engagement_score(NOW, profiling=True) == 0.0


@pytest.mark.parametrize(
    ("sessions", "actions", "ago", "expected"),
    [
        # 100 · (0.40 + 0.35 · (1 - e^(-1/8)) + 0.25 · (1 - e^(-1/20)))
        (1, 1, timedelta(), 45.3),
        (8, 20, timedelta(), 77.9),
        (10_000, 100_000, timedelta(), 100.0),
        # 7 days halve recency, and leave 2^(-1/2) of the sessions and actions
        (8, 20, 7 * DAY, 50.4),
        (8, 20, 14 * DAY, 33.6),
        (8, 20, 3650 * DAY, 0.0),
        # 12 hours: fractions of days count
        (8, 20, 12 * timedelta(hours=1), 75.4),
    ],
)
def test_the_score_of_sessions_and_actions(sessions: int, actions: int, ago: timedelta, expected: float) -> None:
    assert score(sessions, actions, ago) == expected


def test_a_session_in_the_future_counts_as_one_of_now_in_recency() -> None:
    found = activity(1, 1, -DAY / 2).engagement(NOW, profiling=True)
    assert found is not None
    assert (found.days, found.values["recency"]) == (0.0, 1.0)
    assert found.sessions == pytest.approx(2 ** (0.5 / 14), rel=1e-5)


def test_the_zone_of_a_time_does_not_matter() -> None:
    tokyo = activity(4, 9, DAY)
    assert tokyo.last_session_date is not None
    there = tokyo.last_session_date.astimezone(timezone(timedelta(hours=9)))
    elsewhere = Activity(4, there, 0.0, tokyo.decayed_sessions, tokyo.decayed_actions)
    assert elsewhere.engagement_score(NOW, profiling=True) == tokyo.engagement_score(NOW, profiling=True)


@given(st.floats(-700, 12_000), st.floats(0, 400))
def test_a_weight_is_a_power_of_two_and_decays_to_one_at_its_own_time(since: float, days: float) -> None:
    at = LANDMARK + since * DAY
    weight = forward_weight(at)
    exponent = (at - LANDMARK) / timedelta(days=14)
    assert weight == pytest.approx(2 ** (exponent + 20), rel=1e-6, abs=1)
    if at >= LANDMARK:
        assert decayed(Decimal(weight), at + days * DAY) == pytest.approx(2 ** (-days / 14), rel=2e-6)


@given(st.floats(0, 400), st.floats(0, 1000), st.floats(0, 10_000))
def test_the_points_of_the_terms_add_up_to_the_score(days: float, sessions: float, actions: float) -> None:
    found = Engagement(NOW, days, sessions, actions)
    terms = found.terms
    assert [term.name for term in terms] == ["recency", "frequency", "depth"]
    assert [term.weight for term in terms] == [0.40, 0.35, 0.25]
    assert sum(round(10 * term.points) for term in terms) == round(10 * found.score)
    assert all(abs(term.points - 100 * term.weight * term.value) < 0.1 for term in terms)
    exact = 0.40 * 2 ** (-days / 7) + 0.35 * (1 - math.exp(-sessions / 8)) + 0.25 * (1 - math.exp(-actions / 20))
    assert abs(found.score - 100 * exact) <= 0.05 + 1e-9


def test_the_remainder_of_the_rounding_goes_to_the_term_with_the_largest() -> None:
    # 36.23, 15.99, 15.80 points: 68.02 is 68.0, and one tenth is missing after cutting off
    found = Engagement(NOW, 1.0, -8 * math.log(1 - 0.4569), -20 * math.log(1 - 0.6321))
    assert [round(100 * term.weight * term.value, 2) for term in found.terms] == [36.23, 15.99, 15.80]
    assert [term.points for term in found.terms] == [36.2, 16.0, 15.8]
    assert found.score == 68.0


def test_the_landmark_and_the_resolution_are_those_of_stored_sums() -> None:
    """A change of one of them needs a migration of all stored sums."""
    assert forward_weight(datetime(2026, 1, 1, tzinfo=UTC)) == 1 << 20
    assert forward_weight(datetime(2026, 1, 15, tzinfo=UTC)) == 1 << 21
    assert forward_weight(datetime(2025, 12, 4, tzinfo=UTC)) == 1 << 18
    assert engagement.OTHER_WEIGHT == engagement.action_weight("lesson.finish") == 1
