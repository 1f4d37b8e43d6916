"""How types of triggers, waits and exits match events."""

from __future__ import annotations

import pytest

from models.rules.triggers import type_matches


@pytest.mark.parametrize(
    ("pattern", "event_type", "matches"),
    [
        ("engagement.*", "engagement.page_view", True),
        ("engagement.*", "engagements.x", False),
        ("engagement.*", "engagement", False),
        ("engagement.*", "user.engagement", False),
        ("engagement.page_view", "engagement.page_view", True),
        ("engagement.page_view", "engagement.page_views", False),
        ("engagement", "engagement.page_view", False),
        ("*", "engagement.page_view", True),
    ],
)
def test_a_category_includes_the_types_below_it_and_no_other(pattern: str, event_type: str, matches: bool) -> None:
    assert type_matches(pattern, event_type) is matches
