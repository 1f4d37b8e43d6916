"""How far an import is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol, Self

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
from rich.text import Text

_LINE_EVERY_SECONDS = 2.0


class Reporter(Protocol):
    """Where progress is told."""

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""
        ...

    def settled(self, rows: int) -> None:
        """Some more rows are in, or rejected."""
        ...

    def consented(self, people: int) -> None:
        """The consents of some more people are in order."""
        ...

    def note(self, text: str) -> None:
        """Say something in passing."""
        ...


def reporter(console: Console, total: int) -> Reporter:
    """The reporter that suits the console, for some ``total`` rows."""
    return Bar(console, total) if console.is_terminal else Lines(console, total)


class Bar:
    """A progress bar."""

    def __init__(self, console: Console, total: int) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rows"),
            TimeElapsedColumn(),
            _RowsPerSecond(),
            console=console,
        )
        self._task = self._progress.add_task("Importing", total=total)
        self._people = 0

    def __enter__(self) -> Self:
        """Begin to show."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""
        self._progress.stop()

    def settled(self, rows: int) -> None:
        """Some more rows are in, or rejected."""
        self._progress.advance(self._task, rows)

    def consented(self, people: int) -> None:
        """The consents of some more people are in order."""
        self._people += people
        self._progress.update(self._task, description=f"Importing (consents of {self._people:,} people)")

    def note(self, text: str) -> None:
        """Say something above the bar."""
        self._progress.console.print(text, markup=False)


class Lines:
    """A line now and then, for logs and pipes."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._rows = 0
        self._people = 0
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Self:
        """Begin to count the time."""
        self._began = self._said = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held open."""

    def settled(self, rows: int) -> None:
        """Some more rows are in, or rejected."""
        self._rows += rows
        self._say_now_and_then()

    def consented(self, people: int) -> None:
        """The consents of some more people are in order."""
        self._people += people
        self._say_now_and_then()

    def note(self, text: str) -> None:
        """Say something."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _say_now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._said < _LINE_EVERY_SECONDS:
            return
        self._said = now
        elapsed = now - self._began
        people = f", consents of {self._people:,} people" if self._people else ""
        rate = self._rows / elapsed
        self.note(f"{self._rows:,} of {self._total:,} rows{people}, {elapsed:.1f} s, {rate:,.0f} rows/s")


class _RowsPerSecond(ProgressColumn):
    """The rate over the whole run."""

    def render(self, task: Task) -> Text:
        """`1,234 rows/s`."""
        rate = task.completed / task.elapsed if task.elapsed else 0.0
        return Text(f"{rate:,.0f} rows/s")
