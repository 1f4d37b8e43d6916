"""`Retry-After`: seconds and the three forms of an HTTP date, always bounded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.rules.retry_after import retry_after

NOW = datetime(2026, 11, 6, 8, 48, 37, tzinfo=UTC)
LONGEST = timedelta(hours=12)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("1", 1),
        (" 120 ", 120),
        ("000120", 120),
        ("43200", 43_200),
        ("43201", 43_200),
        ("999999999", 43_200),
        ("9" * 5000, 43_200),
        ("Fri, 06 Nov 2026 08:49:37 GMT", 60),
        ("Friday, 06-Nov-26 08:49:37 GMT", 60),
        ("Fri Nov  6 08:49:37 2026", 60),
        ("Fri, 06 Nov 2026 08:48:37 GMT", 0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
        ("Fri, 06 Nov 2026 20:48:38 GMT", 43_200),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 43_200),
    ],
)
def test_a_wait_is_between_zero_and_the_longest(value: str, seconds: int) -> None:
    assert retry_after(value, NOW, LONGEST) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "-1",
        "+5",
        "1.5",
        "1e3",
        "5, 10",
        "soon",
        "٣",
        "²",
        "2026-11-06T08:49:37Z",
        "Fri, 06 Nov 2026 08:49:37 +0100",
        "Fri, 31 Nov 2026 08:49:37 GMT",
        "Fri, 06 Nov 2026 25:49:37 GMT",
    ],
)
def test_a_header_of_another_form_asks_for_nothing(value: str | None) -> None:
    assert retry_after(value, NOW, LONGEST) is None


@given(st.text(max_size=40) | st.integers().map(str) | st.datetimes().map(lambda at: f"{at:%a, %d %b %Y %X GMT}"))
def test_no_header_waits_for_less_than_nothing_or_for_more_than_the_longest(value: str) -> None:
    wait = retry_after(value, NOW, LONGEST)
    assert wait is None or timedelta() <= wait <= LONGEST
