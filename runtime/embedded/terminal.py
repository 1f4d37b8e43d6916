"""The supervisor's output: short lines on standard output, errors on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


class _Console(Console):
    def on_broken_pipe(self) -> None:
        self.quiet = True  # the stack continues without output


class Terminal:
    """A closed terminal or pipe is no error: printing ends and the stack continues."""

    def __init__(self) -> None:
        self._out = _Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self._error = _Console(file=sys.stderr, highlight=False, markup=False, emoji=False)

    def print(self, line: str) -> None:
        self._print(self._out, line)

    def print_error(self, sentence: str) -> None:
        self._print(self._error, sentence)

    def print_table(self, rows: Sequence[tuple[str, str]], last_line: str) -> None:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, value in rows:
            table.add_row(name, value)
        table.columns[1].overflow = "fold"
        self._print(self._out, table)
        self._print(self._out, last_line)

    def _print(self, console: Console, content: str | Table) -> None:
        try:
            if isinstance(content, str):
                console.print(content, soft_wrap=True)
            else:
                console.print(content, width=max(console.width, 120))  # keeps each address on one line
        except OSError:  # the terminal was closed
            console.quiet = True
