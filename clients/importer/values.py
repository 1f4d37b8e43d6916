"""Converts a column's text to an attribute's JSON value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum

Value = str | int | float | bool | Decimal | date | datetime
"""A converted value. Dates and decimals become text only when sent, so that `pick` can compare them."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,15}(?:\.[0-9]{1,12})?")
_BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "on"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "off"), False),
}


class ValueType(StrEnum):
    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    DECIMAL = "decimal"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"
    DATE = "date"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row or an item was rejected. The pointer is relative to the item (`/demographics/age`)."""

    pointer: str
    code: str
    message: str


class InvalidValueError(ValueError):
    """A text doesn't match the type. The message doesn't repeat the text."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def convert(text: str, kind: ValueType, pattern: str | None = None) -> Value:
    """``pattern`` is a strptime format for dates and timestamps; None is ISO 8601.

    Raises :class:`InvalidValueError`.
    """
    if pattern is not None:
        return _by_pattern(text, kind, pattern)
    return _CONVERTERS[kind](text)


def shifted(value: Value, days: int) -> Value:
    """Add days to a date or timestamp. Raises :class:`InvalidValueError` after the year 9999."""
    if not isinstance(value, date):
        return value
    try:
        return value + timedelta(days=days)
    except OverflowError:
        raise InvalidValueError(
            "out_of_range", "With --shift-days this is after the year 9999 or before the year 1."
        ) from None


def as_json(value: Value) -> str | int | float | bool:
    """Times as RFC 3339 in UTC, dates as ISO 8601, decimals as text with all digits."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"
    return value


def _string(text: str) -> Value:
    return text


def _integer(text: str) -> Value:
    if not _INTEGER.fullmatch(text):
        raise InvalidValueError("not_an_integer", "Write a whole number, such as 34.")
    return int(text)


def _number(text: str) -> Value:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidValueError("not_a_number", "Write a number with a decimal point, such as 29.53.")
    return number


def _decimal(text: str) -> Value:
    if not _DECIMAL.fullmatch(text):
        raise InvalidValueError(
            "not_a_decimal", "Write an amount with digits and a decimal point only, such as 29.50."
        )
    return Decimal(text)


def _boolean(text: str) -> Value:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise InvalidValueError(
            "not_a_boolean", "Write true or false (or yes/no, y/n, t/f, on/off, 1/0)."
        ) from None


def _timestamp(text: str) -> Value:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None or parsed.year < 2 or parsed.year > 9998:
        raise InvalidValueError(
            "not_a_timestamp", "Write a time with its offset from UTC, such as 2026-01-05T10:00:00Z."
        )
    return parsed


def _date(text: str) -> Value:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidValueError("not_a_date", "Write a date as 2026-01-05.") from None


def _by_pattern(text: str, kind: ValueType, pattern: str) -> Value:
    try:
        parsed = datetime.strptime(text, pattern)  # noqa: DTZ007 - a missing offset is UTC, below
    except ValueError:
        code = "not_a_date" if kind is ValueType.DATE else "not_a_timestamp"
        raise InvalidValueError(code, f"This doesn't match the mapping's format ({pattern}).") from None
    if kind is ValueType.DATE:
        return parsed.date()
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


_CONVERTERS: dict[ValueType, Callable[[str], Value]] = {
    ValueType.STRING: _string,
    ValueType.INTEGER: _integer,
    ValueType.NUMBER: _number,
    ValueType.DECIMAL: _decimal,
    ValueType.BOOLEAN: _boolean,
    ValueType.TIMESTAMP: _timestamp,
    ValueType.DATE: _date,
}
