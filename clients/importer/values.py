"""Converts a column's text to an attribute's JSON value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from zoneinfo import ZoneInfo

from models.rules.standards import time_zones

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


A_ZONE = "the name of an IANA time zone, such as Europe/Berlin or UTC"


def is_zone(name: object) -> bool:
    return isinstance(name, str) and name in time_zones()


@dataclass(slots=True)
class LocalTimes:
    """The time zone of times without an offset."""

    zone: ZoneInfo | None = None
    taken_as_utc: int = 0
    """The number of times without an offset that were read without a zone."""

    def in_utc(self, moment: datetime) -> datetime:
        """A time with its offset, in UTC. Of two times on the day the clocks go back, the first.

        Raises OverflowError at the ends of the calendar.
        """
        if moment.tzinfo is None and self.zone is None:
            self.taken_as_utc += 1
            return moment.replace(tzinfo=UTC)
        return (moment if moment.tzinfo else moment.replace(tzinfo=self.zone)).astimezone(UTC)


def convert(text: str, kind: ValueType, pattern: str | None = None, times: LocalTimes | None = None) -> Value:
    """``pattern`` is a strptime format for dates and timestamps; None is ISO 8601.

    Raises :class:`InvalidValueError`.
    """
    if kind is ValueType.TIMESTAMP:
        return _timestamp(text, pattern, times or LocalTimes())
    if pattern is not None:
        return _date_by_pattern(text, pattern)
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


def _timestamp(text: str, pattern: str | None, times: LocalTimes) -> Value:
    """In ISO 8601 a time without an offset needs a zone; with a pattern it is UTC."""
    try:
        parsed = datetime.strptime(text, pattern) if pattern else datetime.fromisoformat(text)  # noqa: DTZ007
        if pattern is None and parsed.tzinfo is None and times.zone is None:
            raise ValueError("no offset")
        moment = times.in_utc(parsed)
        if not 2 <= moment.year <= 9998:
            raise OverflowError
    except (ValueError, OverflowError):
        wanted = (
            f"This doesn't match the mapping's format ({pattern})."
            if pattern
            else "Write a time with its offset, such as 2026-01-05T10:00:00Z, or name its zone with --timezone."
        )
        raise InvalidValueError("not_a_timestamp", wanted) from None
    return moment


def _date(text: str) -> Value:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidValueError("not_a_date", "Write a date as 2026-01-05.") from None


def _date_by_pattern(text: str, pattern: str) -> Value:
    try:
        return datetime.strptime(text, pattern).date()  # noqa: DTZ007 - only the date is used
    except ValueError:
        raise InvalidValueError("not_a_date", f"This doesn't match the mapping's format ({pattern}).") from None


_CONVERTERS: dict[ValueType, Callable[[str], Value]] = {
    ValueType.STRING: _string,
    ValueType.INTEGER: _integer,
    ValueType.NUMBER: _number,
    ValueType.DECIMAL: _decimal,
    ValueType.BOOLEAN: _boolean,
    ValueType.DATE: _date,
}
