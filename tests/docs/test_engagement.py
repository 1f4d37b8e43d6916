"""`docs/engagement.md` has the weights of the code, and its example is right."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from models.rules.engagement import ACTION_WEIGHTS, OTHER_WEIGHT, Engagement, forward_weight
from tests.support.processes import ROOT

PAGE = (ROOT / "docs" / "engagement.md").read_text()


def test_the_page_has_the_weight_of_each_event_type() -> None:
    rows = re.findall(r"^\| (`[a-z]+\.[a-z_]+`.*) \| (\d) \|$", PAGE, re.MULTILINE)
    found = {name: int(weight) for names, weight in rows for name in re.findall(r"`([a-z_.]+)`", names)}
    assert found == ACTION_WEIGHTS
    [others] = [weight for names, weight in rows if "every other type" in names]
    assert int(others) == OTHER_WEIGHT


def test_the_example_gives_its_score() -> None:
    now = datetime(2026, 3, 20, 12, tzinfo=UTC)
    first, second, third = (forward_weight(now - timedelta(days=days)) for days in (3.5, 7, 14))
    actions = (8 + 1) * first + second + 2 * third
    found = Engagement.at(now, now - timedelta(days=3.5), first + second + third, actions)
    assert (f"{found.sessions:.4f}", f"{found.actions:.4f}") == ("2.0480", "9.2752")
    assert [term.points for term in found.terms] == [28.3, 7.9, 9.3]
    assert found.score == 45.5
    assert all(text in PAGE for text in ("= 2.0480", "= 9.2752", "= 45.5", '"points": 28.3', '"points": 9.3'))
