"""Durations are parsed and written."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from models.rules.durations import (
    LONGEST,
    Duration,
    days,
    format_duration,
    hours,
    is_duration,
    minutes,
    parse_duration,
)


@given(st.timedeltas(min_value=timedelta(), max_value=LONGEST))
def test_a_duration_that_was_written_is_read_back(value: timedelta) -> None:
    assert abs(parse_duration(format_duration(value)) - value) <= timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("P3D", timedelta(days=3)),
        ("PT0.2S", timedelta(seconds=0.2)),
        ("P1W", timedelta(weeks=1)),
        ("P1DT2H3M4S", timedelta(days=1, hours=2, minutes=3, seconds=4)),
        ("P0D", timedelta()),
    ],
)
def test_iso_8601_is_read(text: str, value: timedelta) -> None:
    assert parse_duration(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "P", "PT", "P1Y", "P1M", "3 days", "p3d", "P-3D", "P\N{ARABIC-INDIC DIGIT ONE}D", "P3DT", 3, None, True],
)
def test_other_values_are_rejected(text: object) -> None:
    with pytest.raises(PydanticCustomError):
        parse_duration(text)


def refused(text: object) -> tuple[str, str]:
    with pytest.raises(PydanticCustomError) as raised:
        parse_duration(text)
    return raised.value.type, raised.value.message()


def test_a_refusal_says_what_to_send() -> None:
    calendar = ("invalid_duration", "Years and months differ in length: send days, such as P30D or P365D.")
    other = ("invalid_duration", "Send an ISO 8601 duration such as P3D or PT12H.")
    assert refused("P1Y") == refused("P2M") == calendar
    assert refused("tomorrow") == refused(None) == refused(5) == other


def test_a_text_has_at_most_64_characters() -> None:
    longest = "P" + "3".rjust(62, "0") + "D"
    assert len(longest) == 64
    assert parse_duration(longest) == timedelta(days=3)
    assert is_duration(longest)
    longer = "P0" + longest[1:]
    assert refused(longer)[0] == "invalid_duration"
    assert not is_duration(longer)


def test_a_parameter_is_at_most_ten_years() -> None:
    adapter = TypeAdapter(Duration)
    assert adapter.validate_python("P3660D") == LONGEST
    with pytest.raises(ValidationError) as raised:
        adapter.validate_python("P3660DT0.000001S")
    [error] = raised.value.errors()
    assert (error["type"], error["msg"]) == ("out_of_range", "A duration must be at most ten years (P3660D).")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (timedelta(), "P0D"),
        (timedelta(days=2), "P2D"),
        (timedelta(hours=3), "PT3H"),
        (timedelta(days=1, minutes=4), "P1DT4M"),
        (timedelta(seconds=5), "PT5S"),
        (timedelta(seconds=0.5), "PT0.5S"),
        (timedelta(seconds=1.000001), "PT1.000001S"),
        (timedelta(seconds=10.1), "PT10.1S"),
    ],
)
def test_a_duration_is_written_without_needless_parts(value: timedelta, text: str) -> None:
    assert format_duration(value) == text


def test_declarations_are_lengths() -> None:
    assert (days(2), hours(2), minutes(2)) == (
        timedelta(days=2),
        timedelta(seconds=7200),
        timedelta(seconds=120),
    )
