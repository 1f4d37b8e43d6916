"""What the supervisor tells the person at the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


class _TerminalConsole(Console):
    """Goes silent when nobody listens any more: the stack runs on, or stops in good order."""

    def on_broken_pipe(self) -> None:
        """The reader of a pipe went away."""
        self.quiet = True


class Narrator:
    """Short lines on standard output, one sentence on standard error when it can't go on."""

    def __init__(self) -> None:
        self._out = _TerminalConsole(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self._error = _TerminalConsole(file=sys.stderr, highlight=False, markup=False, emoji=False)

    def say(self, line: str) -> None:
        """Something happened."""
        self._print(self._out, line)

    def complain(self, sentence: str) -> None:
        """The stack can't start or go on."""
        self._print(self._error, sentence)

    def show_table(self, rows: Sequence[tuple[str, str]], last_line: str) -> None:
        """Where everything is."""
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, value in rows:
            table.add_row(name, value)
        table.columns[1].overflow = "fold"
        self._print(self._out, table)
        self._print(self._out, last_line)

    def _print(self, console: Console, what: str | Table) -> None:
        try:
            if isinstance(what, str):
                console.print(what, soft_wrap=True)
            else:
                console.print(what, width=max(console.width, 120))  # addresses are not broken into lines
        except OSError:  # the terminal was closed
            console.quiet = True
