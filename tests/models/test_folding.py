"""The effect of one event on the projection, to the last field."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from models.rules.engagement import forward_weight
from models.rules.folding import LogEvent, Projection, TransactionEntry, UnfoldableError
from models.rules.visits import Visits

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
PURCHASE = "transaction.purchase_complete"


def event(event_type: str, session: str = "s-1", at: datetime = NOON, **properties: Any) -> LogEvent:
    body = {"event_properties": properties}
    return LogEvent("e-1", "u-1", event_type, at, session, NOON, False, lambda: body)


def projected(*events: LogEvent) -> Projection:
    projection = Projection()
    for each in events:
        projection.add(each)
    return projection


@pytest.mark.parametrize(("event_type", "kind"), [(PURCHASE, "purchase"), ("transaction.refund", "refund")])
def test_a_transaction_has_the_fields_of_its_event(event_type: str, kind: Any) -> None:
    found = projected(event(event_type, amount="19.99", currency="USD", order_id="o-1"))
    entry = TransactionEntry("e-1", "u-1", kind, "o-1", Decimal("19.99"), "USD", NOON)
    assert found.transactions == {"e-1": entry}
    assert found.visits.times == {("u-1", "s-1"): [NOON]}
    assert (found.features, found.closed) == ({}, set())


@pytest.mark.parametrize(
    ("order_id", "text"), [(None, None), ("o-1", "o-1"), (100, "100"), (1e2, "100"), (1.5, "1.5"), ("1e2", "1e2")]
)
def test_an_order_id_is_a_text(order_id: Any, text: str | None) -> None:
    found = projected(event(PURCHASE, amount=1, currency="USD", order_id=order_id))
    assert found.transactions["e-1"].order_id == text


def test_each_click_counts_once_for_its_feature() -> None:
    clicks = [event("engagement.feature_click", feature=each) for each in ("export", "export", "share")]
    found = projected(*clicks)
    assert found.features == {("u-1", "export"): 2, ("u-1", "share"): 1}
    assert found.transactions == {}


@pytest.mark.parametrize(
    ("feature", "taken"), [("é" * 512, True), ("é" * 513, False), ("é" * 600, False), ("", False)]
)
def test_a_feature_has_at_most_1024_bytes(feature: str, taken: bool) -> None:
    click = event("engagement.feature_click", feature=feature)
    if taken:
        assert projected(click).features == {("u-1", feature): 1}
        return
    with pytest.raises(UnfoldableError):
        projected(click)


def test_a_deletion_closes_the_account_and_other_events_do_not() -> None:
    assert projected(event("user.account_deletion")).closed == {"u-1"}
    assert projected(event("user.login")).closed == set()


def test_the_times_of_each_session_are_kept_and_those_of_workflows_are_not() -> None:
    later = NOON + timedelta(hours=1)
    two = projected(event("user.login"), event("user.login", at=later), event("user.login", session="s-2"))
    assert two.visits.times == {("u-1", "s-1"): [NOON, later], ("u-1", "s-2"): [NOON]}
    assert projected(event("user.login", session="workflow:i-1")).visits == Visits()


def test_an_action_counts_with_the_weight_of_its_type() -> None:
    shares = projected(event("engagement.share"), event("lesson.finish"), event("user.logout"))
    assert shares.visits.actions == {"u-1": 5 * forward_weight(NOON)}
    assert projected(event("user.logout")).visits.actions == {}
