"""The projection without a database: the effect of each event, in any order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.rules.activity import Activity, CurrencyTotal
from models.rules.folding import LogEvent, Projection
from models.rules.money import InvalidAmountError, amount_of, average, currency_of, format_amount

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


def event(event_type: str, number: int = 1, minutes: int = 0, session: str = "s", **properties: Any) -> LogEvent:
    moment = NOON + timedelta(minutes=minutes)
    body = {"event_properties": properties}
    return LogEvent(f"e-{number}", "u-1", event_type, moment, session, NOON, False, lambda: body)


PROPERTIES: st.SearchStrategy[tuple[str, dict[str, Any]]] = st.one_of(
    st.tuples(st.just("engagement.page_view"), st.just({})),
    st.tuples(
        st.sampled_from(["transaction.purchase_complete", "transaction.refund"]),
        st.fixed_dictionaries(
            {
                "amount": st.sampled_from(["0", "19.99", "0.10", 5, 0.3]),
                "currency": st.sampled_from(["USD", "EUR"]),
            }
        ),
    ),
    st.tuples(
        st.just("engagement.feature_click"), st.fixed_dictionaries({"feature": st.sampled_from(["a", "b"])})
    ),
)
EVENTS = st.lists(st.tuples(PROPERTIES, st.integers(-500, 500), st.sampled_from(["s", "t"])), max_size=12)


@given(EVENTS, st.randoms(use_true_random=False))
def test_any_order_gives_the_same_projection(drawn: list[Any], random: Any) -> None:
    events = [
        event(event_type, number, minutes, session, **properties)
        for number, ((event_type, properties), minutes, session) in enumerate(drawn)
    ]
    ordered, shuffled = Projection(), Projection()
    for each in sorted(events, key=lambda each: each.timestamp):
        ordered.add(each)
    random.shuffle(events)
    for each in events:
        shuffled.add(each)
    for times in (*ordered.visits.times.values(), *shuffled.visits.times.values()):
        times.sort()
    assert ordered == shuffled


@pytest.mark.parametrize(
    "unusable",
    [
        event("transaction.purchase_complete"),
        event("transaction.purchase_complete", amount="-1", currency="USD"),
        event("transaction.purchase_complete", amount="NaN", currency="USD"),
        event("transaction.purchase_complete", amount=True, currency="USD"),
        event("transaction.refund", amount="1", currency="usd"),
        event("transaction.refund", amount="1e-99999999", currency="USD"),
        event("engagement.feature_click"),
        event("engagement.feature_click", feature=["export"]),
        event("engagement.feature_click", feature="x" * 2000),
        event("engagement.feature_click", feature="x" * 1025),
        event("engagement.feature_click", feature="\u00e9" * 600),
        event("engagement.feature_click", feature=""),
    ],
)
def test_an_unusable_event_changes_nothing(unusable: LogEvent) -> None:
    projection = Projection()
    with pytest.raises(ValueError, match=r".") as raised:
        projection.add(unusable)
    assert projection == Projection()
    assert "usd" not in str(raised.value)


def test_a_body_is_decrypted_only_where_the_projection_needs_it() -> None:
    def body() -> dict[str, Any]:
        raise AssertionError("decrypted")

    Projection().add(LogEvent("e", "u", "engagement.page_view", NOON, "s", NOON, False, body))


def test_money_is_exact() -> None:
    assert amount_of(0.1) + amount_of("0.2") == Decimal("0.3")
    assert amount_of(0) == amount_of("0.00") == 0
    assert format_amount(Decimal("59.0600")) == "59.06"
    assert format_amount(Decimal("1E+2")) == "100.00"
    assert format_amount(Decimal("-0.125")) == "-0.125"
    assert average(Decimal("59.06"), 2) == "29.53"
    assert average(Decimal("10"), 3) == "3.33"
    assert average(Decimal("0.125"), 1) == "0.125"
    assert average(Decimal("10"), 0) is None
    assert currency_of("USD") == "USD"
    with pytest.raises(InvalidAmountError):
        currency_of("USDT")


def test_the_main_currency_has_the_most_purchases_and_then_the_latest_one() -> None:
    many = CurrencyTotal("EUR", 2, Decimal(1), NOON)
    few = CurrencyTotal("USD", 1, Decimal(1000), NOON + timedelta(days=1))
    later = CurrencyTotal("GBP", 2, Decimal(1), NOON + timedelta(hours=1))
    refunded = CurrencyTotal("JPY", 0, Decimal(-5), None)
    assert Activity(totals=(refunded, few, many)).main_total == many
    assert Activity(totals=(many, later, refunded)).main_total == later
    assert Activity(totals=(refunded,)).main_total == refunded
    assert Activity(totals=(many, few)).last_purchase_at == few.last_purchase_at
    assert Activity().main_total is None


@pytest.mark.parametrize("feature", ["x" * 1024, "\u00e9" * 512, "\U0001f600" * 256])
def test_a_feature_of_1024_bytes_is_counted(feature: str) -> None:
    projection = Projection()
    projection.add(event("engagement.feature_click", feature=feature))
    assert projection.features == {("u-1", feature): 1}
