"""Amounts of money as exact decimals: read from events, averaged, written as text. Zero is a valid amount."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from functools import reduce
from typing import Any

_NEGATIVE = re.compile(r"\s*[-\u2212]\s*[0-9.]")
_CURRENCY = re.compile(r"[A-Z]{3}")
_MIN_PLACES = 2
_MAX_DIGITS = 24  # before the decimal point, and after it
_EXACT = Context(prec=100)  # more digits than any sum of amounts has


class InvalidAmountError(ValueError):
    """A value isn't an amount or a currency. The text doesn't repeat the value."""


def amount_of(value: Any) -> Decimal:
    """Read a decimal string or a JSON number. Raises :class:`InvalidAmountError`."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidAmountError("an amount must be a decimal string or a number")
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise InvalidAmountError("an amount must be a decimal string or a number") from None
    if not amount.is_finite() or amount < 0:
        raise InvalidAmountError("an amount must be finite and not negative")
    exponent = amount.as_tuple().exponent
    if amount.adjusted() >= _MAX_DIGITS or not isinstance(exponent, int) or exponent < -_MAX_DIGITS:
        raise InvalidAmountError(f"an amount must have at most {_MAX_DIGITS} digits before and after the point")
    return amount


def is_negative(value: Any) -> bool:
    """Whether a value is a number below zero, or a text that begins like one."""
    if isinstance(value, str):
        return _NEGATIVE.match(value) is not None
    return isinstance(value, int | float) and value < 0


def currency_of(value: Any) -> str:
    """Read an ISO 4217 code. Raises :class:`InvalidAmountError`."""
    if not isinstance(value, str) or _CURRENCY.fullmatch(value) is None:
        raise InvalidAmountError("a currency must be three capital letters")
    return value


def format_amount(amount: Decimal) -> str:
    """Two decimal places, or more if the amount has more."""
    return f"{amount:.{_places(amount)}f}"


def average(total: Decimal, count: int) -> str | None:
    """``total / count`` with the decimal places of ``total``, rounded half up; None without a count."""
    return None if count == 0 else product(total, 1, count)


def product(total: Decimal, numerator: int, denominator: int) -> str:
    """``total · numerator / denominator`` with the decimal places of ``total``, rounded half up."""
    unit = Decimal(1).scaleb(-_places(total))
    exact = _EXACT.divide(_EXACT.multiply(total, Decimal(numerator)), Decimal(denominator))
    return format_amount(exact.quantize(unit, ROUND_HALF_UP, _EXACT))


def exact_sum(amounts: Iterable[Decimal]) -> Decimal:
    """The sum, without rounding to the 28 digits of the default context."""
    return reduce(_EXACT.add, amounts, Decimal(0))


def _places(amount: Decimal) -> int:
    exponent = amount.normalize(_EXACT).as_tuple().exponent
    return max(_MIN_PLACES, -exponent) if isinstance(exponent, int) else _MIN_PLACES
