"""Ratios of a comparison point the same way for rates and for times, and it names only cases that exist."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.__main__ import CASES
from benchmarks.comparison import MEASURES, Measure

RATE = Measure("ingest", "ingest", ("value",), "/s", ("details", "processor_us_each"))
LATENCY = Measure(
    "get_user", "get_user", ("details", "http", "p50_ms"), "ms", ("details", "api_processor_ms_each")
)


def test_every_compared_case_exists() -> None:
    assert {measure.case for measure in MEASURES} <= set(CASES)


@pytest.mark.parametrize(("measure", "old", "new"), [(RATE, 100.0, 150.0), (LATENCY, 3.0, 2.0)])
def test_a_higher_rate_and_a_shorter_time_are_both_a_speed_above_one(
    measure: Measure, old: float, new: float
) -> None:
    assert measure.speed(old, new) == pytest.approx(1.5)
    assert measure.speed(new, old) == pytest.approx(1 / 1.5)


def test_a_measure_finds_its_figure_among_those_of_a_block() -> None:
    figures: list[dict[str, Any]] = [
        {"name": "auth", "value": 9.0, "details": {}},
        {"name": "get_user", "value": 5.0, "details": {"http": {"p50_ms": 2.5}, "api_processor_ms_each": 1.25}},
    ]
    assert LATENCY.value(figures) == 2.5
    assert LATENCY.processor_time(figures) == 1.25


def test_processor_time_is_that_of_the_stack_without_the_load() -> None:
    parts = {"api": 1.0, "worker": 2.0, "temporal": 3.0, "postgres": 4.0, "load": 50.0, "bare_worker": 60.0}
    figures: list[dict[str, Any]] = [{"name": "ingest", "value": 1.0, "details": {"processor_us_each": parts}}]
    assert RATE.processor_time(figures) == 10.0
