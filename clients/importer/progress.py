"""Progress and summary of an import: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from clients.importer.options import ItemStatus, Kind

_PRINT_INTERVAL_SECONDS = 2.0


class Reporter(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def rows_done(self, rows: int) -> None:
        """Add to the rows that were sent or rejected."""
        ...

    def people_done(self, people: int) -> None:
        """Add to the people whose consents are recorded."""
        ...

    def note(self, text: str) -> None:
        """Print a message."""
        ...


def print_text(console: Console, text: str) -> None:
    """Print a text as it is, even if it has brackets or colons."""
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def reporter(console: Console, total: int, doing: str = "Importing", unit: str = "rows") -> Reporter:
    return Bar(console, total, doing, unit) if console.is_terminal else Lines(console, total, unit)


class Bar:
    def __init__(self, console: Console, total: int, doing: str, unit: str = "rows") -> None:
        self._doing = doing
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            _PerSecond(unit),
            console=console,
        )
        self._task = self._progress.add_task(doing, total=total)
        self._people = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def rows_done(self, rows: int) -> None:
        self._progress.advance(self._task, rows)

    def people_done(self, people: int) -> None:
        self._people += people
        self._progress.update(self._task, description=f"{self._doing} (consents of {self._people:,} people)")

    def note(self, text: str) -> None:
        print_text(self._progress.console, text)


class Lines:
    """A line every two seconds, for logs and pipes."""

    def __init__(self, console: Console, total: int, unit: str = "rows") -> None:
        self._console = console
        self._unit = unit
        self._total = total
        self._rows = 0
        self._people = 0
        self._began = self._printed_at = time.monotonic()

    def __enter__(self) -> Self:
        self._began = self._printed_at = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def rows_done(self, rows: int) -> None:
        self._rows += rows
        self._print_if_due()

    def people_done(self, people: int) -> None:
        self._people += people
        self._print_if_due()

    def note(self, text: str) -> None:
        print_text(self._console, text)

    def _print_if_due(self) -> None:
        now = time.monotonic()
        if now - self._printed_at < _PRINT_INTERVAL_SECONDS:
            return
        self._printed_at = now
        elapsed = now - self._began
        people = f", consents of {self._people:,} people" if self._people else ""
        rate = self._rows / elapsed
        done = f"{self._rows:,} of {self._total:,} {self._unit}{people}"
        self.note(f"{done}, {elapsed:.1f} s, {rate:,.0f} {self._unit}/s")


class _PerSecond(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        rate = task.completed / task.elapsed if task.elapsed else 0.0
        return Text(f"{rate:,.0f} {self._unit}/s")


@dataclass
class Summary:
    lines: int = 0
    """All lines of the file: of rows, of the header, and empty ones."""
    empty_lines: int = 0
    rows: int = 0
    """Each becomes part of an item, or is rejected."""
    items: int = 0
    statuses: Counter[ItemStatus] = field(default_factory=Counter)
    rejected_rows: int = 0
    open_rows: int = 0
    """Rows without a result, after a stop."""
    consents: int = 0
    seconds: float = 0.0


def show(console: Console, kind: Kind, summary: Summary, example: bytes | None) -> None:
    """Print the summary. ``example`` is the first item of a dry run."""
    counts = {"lines": summary.lines}
    if summary.empty_lines:
        counts["empty lines"] = summary.empty_lines
    counts |= {"rows": summary.rows, kind.name: summary.items}
    if example is None:
        counts |= {label: summary.statuses[taken] for taken, label in kind.labels.items()}
        if summary.consents:
            counts["consents granted"] = summary.consents
    counts["rejected rows"] = summary.rejected_rows
    taken = summary.items - summary.statuses[ItemStatus.REJECTED]
    if merged := summary.rows - summary.rejected_rows - summary.open_rows - taken:
        counts["merged rows"] = merged
    if summary.open_rows:
        counts["rows without a result"] = summary.open_rows
    rate = summary.rows / summary.seconds if summary.seconds else 0.0
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    table.add_row("seconds", f"{summary.seconds:.1f}")
    table.add_row("rows a second", f"{rate:,.0f}")
    console.print(table)
    if example is not None:
        console.print("Nothing was sent. The first item:", highlight=False)
        console.print_json(orjson.dumps(orjson.loads(example)).decode())
