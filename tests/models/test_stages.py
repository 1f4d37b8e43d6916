"""The rules of lifecycle stages, without a database, against their document."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from models.rules.stages import (
    DEFAULT_PERIODS,
    TRANSITIONS,
    Condition,
    Signs,
    StageCause,
    Standing,
    by_activity,
    by_inactivity,
)
from models.vocabulary import LifecycleStage

NOW = datetime(2026, 3, 14, 12, tzinfo=UTC)
DAY = timedelta(days=1)
DOCUMENT = Path(__file__).parents[2] / "docs" / "lifecycle.md"
LONG_AGO = NOW - 400 * DAY


def standing(stage: str, *, pinned: bool = False, set_at: datetime = LONG_AGO, sessions: int = 0) -> Standing:
    return Standing(LifecycleStage(stage), pinned, set_at, LONG_AGO, sessions)


def moved(held: Standing, *times: datetime, signup: bool = False, purchase: bool = False) -> list[str]:
    """The stages that activity leads to, with its events at these times."""
    signs = Signs([*times], [*times] if signup else [], [*times] if purchase else [])
    return [move.target.value for move in by_activity(held, signs, NOW, DEFAULT_PERIODS)]


@pytest.mark.parametrize(
    ("held", "signs", "stages"),
    [
        (standing("prospect"), {}, []),
        (standing("prospect"), {"signup": True}, ["onboarding"]),
        (standing("prospect"), {"purchase": True}, ["active"]),
        (standing("prospect", sessions=3), {"signup": True}, ["active"]),
        (standing("onboarding", sessions=2), {}, []),
        (standing("onboarding", sessions=3), {}, ["active"]),
        (standing("onboarding"), {"purchase": True}, ["active"]),
        (standing("active", sessions=9), {"purchase": True, "signup": True}, []),
        (standing("at_risk"), {}, ["active"]),
        (standing("dormant"), {}, ["reactivated"]),
        (standing("churned"), {}, ["reactivated"]),
        (standing("reactivated", set_at=NOW - DAY), {}, ["active"]),
        (standing("reactivated", set_at=NOW - DAY + timedelta(seconds=1)), {}, []),
        (standing("churned", pinned=True), {"purchase": True}, []),
    ],
)
def test_activity_moves_a_stage(held: Standing, signs: dict[str, bool], stages: list[str]) -> None:
    assert moved(held, NOW, **signs) == stages


def test_only_activity_within_the_at_risk_period_brings_back() -> None:
    assert moved(standing("dormant"), NOW - 14 * DAY) == []
    assert moved(standing("dormant"), NOW - 14 * DAY + timedelta(seconds=1)) == ["reactivated"]


def test_a_return_and_a_session_a_day_later_in_one_batch_are_two_moves() -> None:
    assert moved(standing("churned"), NOW, NOW - DAY) == ["reactivated", "active"]
    assert moved(standing("churned"), NOW, NOW - DAY / 2) == ["reactivated"]


def test_activity_from_before_a_callers_change_does_not_count() -> None:
    held = standing("churned", set_at=NOW - 2 * DAY)
    assert moved(held, NOW - 2 * DAY, purchase=True) == []
    assert moved(held, NOW - DAY) == ["reactivated"]


def test_activity_from_before_the_creation_counts_for_the_stage_of_the_creation() -> None:
    """A shop stores the profile a moment after the sign-up, and an import stores it years later."""
    held = Standing(LifecycleStage.PROSPECT, False, NOW, NOW)
    assert moved(held, NOW - timedelta(seconds=1), signup=True) == ["onboarding"]


@pytest.mark.parametrize(
    ("stage", "days", "target"),
    [
        ("active", 13, None),
        ("active", 14, "at_risk"),
        ("onboarding", 14, "at_risk"),
        ("reactivated", 14, "at_risk"),
        ("prospect", 400, None),
        ("at_risk", 29, None),
        ("at_risk", 30, "dormant"),
        ("active", 30, "dormant"),
        ("dormant", 89, None),
        ("dormant", 90, "churned"),
        ("active", 200, "churned"),
        ("churned", 200, None),
    ],
)
def test_inactivity_moves_a_stage(stage: str, days: int, target: str | None) -> None:
    move = by_inactivity(standing(stage), NOW - days * DAY, NOW, DEFAULT_PERIODS)
    assert (move and move.target.value) == target


def test_a_callers_stage_holds_until_the_next_crossing() -> None:
    last = NOW - 20 * DAY
    held = standing("active", set_at=NOW - 5 * DAY)
    assert by_inactivity(held, last, NOW, DEFAULT_PERIODS) is None
    later = NOW + 10 * DAY
    move = by_inactivity(held, last, later, DEFAULT_PERIODS)
    assert move is not None
    assert (move.target, move.at) == (LifecycleStage.DORMANT, last + 30 * DAY)
    assert by_inactivity(standing("active", pinned=True), last, later, DEFAULT_PERIODS) is None


def test_crossings_from_before_the_creation_count_until_a_caller_sets_the_stage() -> None:
    """An import stores people who have been away for years as `active`."""
    new = Standing(LifecycleStage.ACTIVE, False, NOW, NOW)
    move = by_inactivity(new, NOW - 20 * DAY, NOW, DEFAULT_PERIODS)
    assert move is not None
    assert move.target is LifecycleStage.AT_RISK
    held = Standing(LifecycleStage.ACTIVE, False, NOW, NOW - DAY)
    assert by_inactivity(held, NOW - 20 * DAY, NOW, DEFAULT_PERIODS) is None


def test_a_person_is_due_at_each_crossing_and_after_the_last_never() -> None:
    due = DEFAULT_PERIODS.next_crossing
    assert [due(NOW - days * DAY, NOW) for days in (0, 14, 30, 90)] == [
        NOW + 14 * DAY,
        NOW + 16 * DAY,
        NOW + 60 * DAY,
        None,
    ]


def test_the_document_has_the_table_and_draws_it() -> None:
    text = DOCUMENT.read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `(\w+)` \| (.+?) \|$", text, re.MULTILINE)
    assert rows == [(each.source, each.target, each.cause, each.condition) for each in TRANSITIONS]
    drawn = re.findall(r"^    (\w+) --> (\w+)(?:: .+)?$", text, re.MULTILINE)
    assert sorted(drawn) == sorted({(each.source.value, each.target.value) for each in TRANSITIONS})


def test_the_table_has_no_cycle_by_activity_and_decays_in_one_direction() -> None:
    order = list(LifecycleStage)
    decayed = [LifecycleStage.AT_RISK, LifecycleStage.DORMANT, LifecycleStage.CHURNED]
    for each in TRANSITIONS:
        if each.cause is StageCause.INACTIVITY:
            assert each.target in decayed
            assert order.index(each.source) < order.index(each.target) or each.source is LifecycleStage.REACTIVATED
        else:
            assert each.target not in decayed
    assert {each.condition for each in TRANSITIONS} == set(Condition)
