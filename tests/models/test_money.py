"""Amounts at their limits, and averages that are rounded."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import pytest

from models.rules.money import InvalidAmountError, amount_of, average, format_amount

LARGEST = "9" * 24
SMALLEST = "0." + "0" * 23 + "1"


@pytest.mark.parametrize("value", [LARGEST, SMALLEST, 0, 0.3, "0", "1e23"])
def test_an_amount_at_its_limit_is_exact(value: Any) -> None:
    assert amount_of(value) == Decimal(str(value))


@pytest.mark.parametrize(
    "value", ["1" + "0" * 24, "1e24", "0." + "0" * 24 + "1", "1e-25", "Infinity", "NaN", "-1"]
)
def test_an_amount_beyond_its_limit_is_refused(value: str) -> None:
    with pytest.raises(InvalidAmountError):
        amount_of(value)


@pytest.mark.parametrize("value", [True, False, None, [], {}, [1]])
def test_a_value_of_another_type_is_no_amount(value: Any) -> None:
    with pytest.raises(InvalidAmountError):
        amount_of(value)


@pytest.mark.parametrize(
    ("total", "count", "shown"),
    [
        ("0.05", 2, "0.03"),  # half up, where half even gives 0.02
        ("0.25", 10, "0.03"),
        ("10", 3, "3.33"),
        ("1.001", 2, "0.501"),
        ("20", 3, "6.67"),
    ],
)
def test_an_average_is_rounded_half_up(total: str, count: int, shown: str) -> None:
    assert average(Decimal(total), count) == shown
    assert average(Decimal(total), 0) is None


def test_a_long_total_keeps_its_digits_in_any_context() -> None:
    total = Decimal("1" * 40 + ".123456")
    with localcontext() as context:
        context.prec = 6
        assert format_amount(total) == "1" * 40 + ".123456"
        assert average(total, 1) == "1" * 40 + ".123456"
    assert format_amount(Decimal("5.1")) == "5.10"
