"""Money as decimals: read from what events carry, added only within a currency, written as text.

Amounts are exact. Zero is a valid amount; what isn't finite or is below zero is none.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any

_CURRENCY = re.compile(r"[A-Z]{3}")
_PLACES = 2
"""Decimal places that an amount is written with at least."""
_MOST_DIGITS = 24
"""Before the point, and behind it."""
_EXACT = Context(prec=100)
"""More digits than any sum of amounts has."""


class InvalidAmountError(ValueError):
    """A value isn't an amount or a currency; the text never holds it."""


def amount_of(value: Any) -> Decimal:
    """An amount from a decimal string or a JSON number; raises :class:`InvalidAmountError`."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidAmountError("an amount is a decimal string or a number")
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise InvalidAmountError("an amount is a decimal string or a number") from None
    if not amount.is_finite() or amount < 0:
        raise InvalidAmountError("an amount is finite and not below zero")
    exponent = amount.as_tuple().exponent
    if amount.adjusted() >= _MOST_DIGITS or not isinstance(exponent, int) or exponent < -_MOST_DIGITS:
        raise InvalidAmountError("an amount has a sensible number of digits")
    return amount


def currency_of(value: Any) -> str:
    """A currency code of ISO 4217; raises :class:`InvalidAmountError`."""
    if not isinstance(value, str) or _CURRENCY.fullmatch(value) is None:
        raise InvalidAmountError("a currency is three capital letters")
    return value


def written(amount: Decimal) -> str:
    """An amount as text: two decimal places, more only where it has them."""
    return f"{amount:.{_places(amount)}f}"


def average(total: Decimal, count: int) -> str | None:
    """A total by a count as text, rounded half up to the places that the total is written with."""
    if count == 0:
        return None
    unit = Decimal(1).scaleb(-_places(total))
    return written(_EXACT.divide(total, Decimal(count)).quantize(unit, ROUND_HALF_UP, _EXACT))


def _places(amount: Decimal) -> int:
    exponent = amount.normalize(_EXACT).as_tuple().exponent
    return max(_PLACES, -exponent) if isinstance(exponent, int) else _PLACES
