"""ISO 8601 durations: parsed, checked and written."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer
from pydantic_core import PydanticCustomError

_FORM = re.compile(
    r"P(?=\d|T\d)(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+(?:\.\d+)?)D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d+(?:\.\d+)?)H)?(?:(?P<minutes>\d+(?:\.\d+)?)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?",
    re.ASCII,
)
_CALENDAR = re.compile(r"P[\d.]+[YM]", re.ASCII)
LONGEST = timedelta(days=3660)


def days(number: float) -> timedelta:
    """For declarations of workflows: ``once_per=days(7)``."""
    return timedelta(days=number)


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


def parse_duration(value: Any) -> timedelta:
    """Parse a duration such as ``P3D`` or ``PT1.5S``, at most :data:`timedelta.max`.

    Raises a validation error for other texts, and for years and months, whose length varies.
    """
    if isinstance(value, timedelta):
        return value
    match = _FORM.fullmatch(value) if isinstance(value, str) and len(value) <= 64 else None
    if match is None and isinstance(value, str) and _CALENDAR.match(value):
        raise PydanticCustomError(
            "invalid_duration", "Years and months differ in length: send days, such as P30D or P365D."
        )
    if match is None:
        raise PydanticCustomError("invalid_duration", "Send an ISO 8601 duration such as P3D or PT12H.")
    try:
        return timedelta(**{unit: float(number) for unit, number in match.groupdict(default="0").items()})
    except OverflowError:
        return timedelta.max


def is_duration(value: str) -> bool:
    return len(value) <= 64 and _FORM.fullmatch(value) is not None


def _bounded(value: timedelta) -> timedelta:
    if value > LONGEST:
        raise PydanticCustomError("out_of_range", "A duration must be at most ten years (P3660D).")
    return value


def format_duration(value: timedelta) -> str:
    """Write days, hours, minutes and seconds, as :func:`parse_duration` reads them."""
    whole_minutes, seconds = divmod(value.seconds, 60)
    whole_hours, rest = divmod(whole_minutes, 60)
    fraction = f".{value.microseconds:06}".rstrip("0") if value.microseconds else ""
    day_part = f"{value.days}D" if value.days else ""
    time = "".join(f"{number}{unit}" for number, unit in ((whole_hours, "H"), (rest, "M")) if number) + (
        f"{seconds}{fraction}S" if seconds or fraction else ""
    )
    return f"P{day_part}T{time}" if time else f"P{day_part or '0D'}"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    AfterValidator(_bounded),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
]
"""A parameter of a workflow; its JSON Schema has `"format": "duration"`."""
