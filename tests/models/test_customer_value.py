"""Purchase frequency and customer lifetime value: worked numbers, and what holds for all purchases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.rules.activity import Activity, CurrencyTotal
from models.rules.customer_value import customer_lifetime_value, purchase_frequency

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
YEARS = Decimal(3)


def total(currency: str, purchases: int, revenue: str, days_ago: float) -> CurrencyTotal:
    """Purchases in one currency, the first and the last of them ``days_ago``."""
    at = NOW - timedelta(days=days_ago)
    return CurrencyTotal(currency, purchases, Decimal(revenue), at, at)


@pytest.mark.parametrize(
    ("totals", "frequency", "value"),
    [
        ([total("USD", 3, "90.00", 60)], 1.5, "1642.50"),  # 30.00 · 1.5 · 365 / 30 · 3
        ([total("USD", 1, "20.00", 0)], 1.0, "730.00"),  # today: over 30 days, not over none
        ([total("USD", 1, "20.00", -1)], 1.0, "730.00"),  # a sender's clock is a day ahead
        ([total("USD", 1, "20.00", 29.9)], 1.0, "730.00"),
        ([total("USD", 1, "20.00", 60)], 0.5, "365.00"),
        ([total("USD", 3, "10.00", 30)], 3.0, "365.00"),  # 10 / 3 isn't rounded before the product
        ([total("USD", 1, "20.00", 1095)], 0.0274, "20.00"),
        ([total("USD", 2, "40.00", 30), total("EUR", 1, "9.00", 60)], 1.5, "1095.00"),  # 20.00 USD · 1.5 · ...
        ([total("USD", 2, "-4.00", 30)], 2.0, "-146.00"),  # refunds of more than was bought
        ([total("USD", 1, "0.125", 30)], 1.0, "4.563"),  # with the places of the revenue, half up
        ([CurrencyTotal("USD", 0, Decimal("-7"), None, None)], None, None),  # refunds alone
        ([], None, None),
    ],
)
def test_worked_numbers(totals: list[CurrencyTotal], frequency: float | None, value: str | None) -> None:
    activity = Activity(totals=tuple(totals))
    assert purchase_frequency(activity, NOW) == frequency
    assert customer_lifetime_value(activity, NOW, YEARS) == value


def test_purchases_that_the_profile_does_not_show_count_too() -> None:
    shown = total("USD", 2, "40.00", 30)
    activity = Activity(totals=(shown,), purchases_in_all=(5, NOW, NOW - timedelta(days=60)))
    assert purchase_frequency(activity, NOW) == 2.5
    assert customer_lifetime_value(activity, NOW, YEARS) == "1825.00"


PURCHASES = st.lists(
    st.builds(
        total,
        currency=st.uuids().map(str),
        purchases=st.integers(1, 10_000),
        revenue=st.integers(0, 10**18).map(lambda cents: str(Decimal(cents).scaleb(-2))),
        days_ago=st.integers(-1, 4000),
    ),
    min_size=1,
    max_size=4,
)


@given(PURCHASES)
def test_the_order_of_totals_changes_nothing(totals: list[CurrencyTotal]) -> None:
    activity, reverse = Activity(totals=tuple(totals)), Activity(totals=tuple(reversed(totals)))
    assert purchase_frequency(activity, NOW) == purchase_frequency(reverse, NOW)
    assert customer_lifetime_value(activity, NOW, YEARS) == customer_lifetime_value(reverse, NOW, YEARS)


@given(PURCHASES, st.integers(0, 1000))
def test_the_value_is_the_formula_and_never_rises_without_a_purchase(
    totals: list[CurrencyTotal], later: int
) -> None:
    activity = Activity(totals=tuple(totals))
    frequency, main = purchase_frequency(activity, NOW), activity.main_total
    value = customer_lifetime_value(activity, NOW, YEARS)
    assert frequency is not None
    assert main is not None
    assert value is not None
    days = max(30, *((NOW - each.first_purchase_at).days for each in totals if each.first_purchase_at))
    assert frequency == pytest.approx(30 * sum(each.purchases for each in totals) / days, abs=6e-5)
    expected = float(main.revenue) / main.purchases * sum(each.purchases for each in totals) / days * 365 * 3
    assert float(value) == pytest.approx(expected, rel=1e-9, abs=0.0051)
    afterwards = NOW + timedelta(days=later)
    assert Decimal(customer_lifetime_value(activity, afterwards, YEARS) or "") <= Decimal(value)
    assert (purchase_frequency(activity, afterwards) or 0) <= frequency


@given(PURCHASES, st.integers(1, 100))
def test_the_value_is_proportional_to_the_expected_years(totals: list[CurrencyTotal], years: int) -> None:
    activity = Activity(totals=tuple(totals))
    one, many = (Decimal(customer_lifetime_value(activity, NOW, Decimal(each)) or "") for each in (1, years))
    assert abs(many - one * years) <= Decimal("0.005") * (years + 1)
