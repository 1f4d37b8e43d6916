"""Durations are parsed and written."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from models.rules.durations import LONGEST, format_duration, parse_duration


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
