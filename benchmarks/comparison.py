"""Two checkouts in one run: each keeps a stack, and their blocks of the same case follow each other.

Adjacent blocks see the same machine, so the ratio is taken within each pair; medians and quartiles are over pairs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_STOP_SECONDS = 60.0
_NEW = Path(__file__).parents[1]
_PARTS = ("api", "worker", "temporal", "postgres")


@dataclass(frozen=True)
class Measure:
    """A number of a case's figures. Paths lead from a figure into its nested fields."""

    case: str
    figure: str
    path: tuple[str, ...]
    unit: str
    processor: tuple[str, ...] = ()
    """Path to the processor time of an operation: a number, or one per part of the stack."""

    def value(self, figures: Sequence[dict[str, Any]]) -> float:
        return float(_at(self._figure(figures), self.path))

    def processor_time(self, figures: Sequence[dict[str, Any]]) -> float | None:
        if not self.processor:
            return None
        spent = _at(self._figure(figures), self.processor)
        return sum(spent[part] for part in _PARTS) if isinstance(spent, dict) else float(spent)

    def speed(self, old: float, new: float) -> float:
        """How fast new is compared with old: above 1 is faster, for a rate as for a time."""
        return new / old if self.unit == "/s" else old / new

    def _figure(self, figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return next(figure for figure in figures if figure["name"] == self.figure)


def _at(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        value = value[name]
    return value


_HTTP_P50 = ("details", "http", "p50_ms")
MEASURES = (
    Measure("auth", "auth", ("value",), "ms"),
    Measure("auth", "auth over HTTP", ("details", "refused", "p50_ms"), "ms"),
    Measure("get_user", "get_user", _HTTP_P50, "ms", ("details", "api_processor_ms_each")),
    Measure("get_instance", "get_instance", _HTTP_P50, "ms", ("details", "api_processor_ms_each")),
    Measure("ingest", "ingest", ("value",), "/s", ("details", "processor_us_each")),
    Measure("ingest_one", "ingest one by one", ("value",), "/s"),
    Measure("execute", "execute", ("value",), "/s", ("details", "http", "processor_ms_each")),
    Measure("completions", "completions", ("value",), "/s", ("details", "blocks", "short", "processor_ms_each")),
)
CASES = tuple(dict.fromkeys(measure.case for measure in MEASURES))
"""The cases that can be repeated on one stack."""
_PAIRS_A_ROUND = {"auth": 5, "get_user": 5, "get_instance": 5}
"""Their blocks last half a second, which other work on the machine can double; a pair of the others is enough."""

Figures = list[dict[str, Any]]


@dataclass
class Side:
    """A checkout's child process."""

    process: subprocess.Popen[str]
    checkout: Path
    blocks: defaultdict[str, list[Figures]] = field(default_factory=lambda: defaultdict(list))

    def run(self, case: str) -> Figures | None:
        """Run a block; None where it failed. Its traceback is on standard error."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{case}\n")
        self.process.stdin.flush()
        figures: Figures | None = self.read()
        return figures

    def read(self) -> Any:
        """The child's next line. Raises RuntimeError where the child has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the benchmarks of {self.checkout} ended early")
        return json.loads(line)


def python_of(checkout: Path) -> Path:
    """The interpreter that `make setup` puts into a checkout."""
    return checkout / ".venv" / "bin" / "python"


def compare(old: Path, names: Sequence[str], rounds: int, console: Console) -> dict[str, Any]:
    """Run the cases in rounds, after one that warms up; print the ratios, and return every figure."""
    with _side(old, python_of(old)) as before, _side(_NEW, Path(sys.executable)) as after:
        for side in (before, after):
            side.read()  # its stack is ready
        for number, name in product(range(rounds + 1), names):
            console.print(f"{name}, round {number} of {rounds}{'' if number else ' (not counted)'} ...")
            for pair in range(_PAIRS_A_ROUND.get(name, 1)):
                # The first of a pair may find the machine busier than the second, so they swap.
                order = (before, after) if (number + pair) % 2 else (after, before)
                figures = [side.run(name) for side in order]
                if number and all(figures):
                    for side, each in zip(order, figures, strict=True):
                        side.blocks[name].append(each or [])
    measures = [measure for measure in MEASURES if before.blocks[measure.case]]
    results = [_result(measure, before, after) for measure in measures]
    _show(console, results)
    return {"rounds": rounds, "results": results, "old": before.blocks, "new": after.blocks}


@contextmanager
def _side(checkout: Path, python: Path) -> Iterator[Side]:
    # -P keeps this folder, whose http.py would hide the standard library's, off the path.
    process = subprocess.Popen(
        [python, "-P", _NEW / "benchmarks" / "blocks.py"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Side(process, checkout)
    finally:
        assert process.stdin is not None
        process.stdin.close()  # ends the child's loop, and so its stack
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()


def _result(measure: Measure, before: Side, after: Side) -> dict[str, Any]:
    pairs = list(zip(before.blocks[measure.case], after.blocks[measure.case], strict=True))
    old, new = ([measure.value(figures) for figures in side] for side in zip(*pairs, strict=True))
    spent = [(measure.processor_time(ours), measure.processor_time(theirs)) for ours, theirs in pairs]
    processor = [theirs / ours for ours, theirs in spent if ours and theirs]
    return {
        "case": measure.case,
        "figure": measure.figure,
        "unit": measure.unit,
        "pairs": len(pairs),
        "old": _spread(old),
        "new": _spread(new),
        "speed": _spread([measure.speed(*values) for values in zip(old, new, strict=True)]),
        "processor_time": _spread(processor) if processor else None,
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    low, _, high = statistics.quantiles(values, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": statistics.median(values), "quartiles": [low, high], "values": list(values)}


def _show(console: Console, results: Sequence[dict[str, Any]]) -> None:
    table = Table(show_lines=True)
    for name in ("", "pairs", "old", "new", "speed, new / old", "processor time, new / old"):
        table.add_column(name)
    for each in results:
        processor = each["processor_time"]
        table.add_row(
            each["figure"],
            str(each["pairs"]),
            f"{_written(each['old'])} {each['unit']}",
            f"{_written(each['new'])} {each['unit']}",
            _written(each["speed"]),
            _written(processor) if processor else "",
        )
    console.print(table)
    console.print("Medians, with quartiles. Speed above 1 is faster, processor time below 1 is cheaper.")


def _written(spread: dict[str, Any]) -> str:
    median, (low, high) = spread["median"], spread["quartiles"]
    return f"{median:,.4g} ({low:,.4g} to {high:,.4g})"
