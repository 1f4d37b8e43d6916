"""Splits the lines of a CSV file into records. Every line belongs to exactly one record.

The `csv` module can't do this: after a quote that never closes it discards what it has read, up to the file's end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

LONGEST_LINE = 16 * 1024 * 1024
"""In characters. The API takes no request of this size."""
_MOST_LINES = 1000
_MOST_CHARACTERS = 2 * 1024 * 1024
"""Of a record with line ends in its values. A larger one counts as a quote that never closes."""


def is_delimiter(text: object) -> bool:
    """Whether a text can separate the cells of a record."""
    return isinstance(text, str) and len(text) == 1 and text not in '"\r\n'


class Record(NamedTuple):
    """One row of the file, or a line that is no row."""

    line: int
    """The first line, from 1."""
    lines: int
    """The number of lines. 1 for a line that is no row."""
    text: str
    """The lines as they are in the file, without the last line end."""
    cells: tuple[str, ...]
    error: str | None = None
    """The reason why it is no row, as a sentence. ``cells`` are then the line's parts between delimiters."""

    @property
    def blank(self) -> bool:
        """Whether it holds delimiters and spaces only."""
        return self.error is None and not any(cell.strip() for cell in self.cells)


_AFTER_QUOTE = "There is text after a closing quote. Double the quotes inside a value, or remove them."
_OPEN = "A quote opens a value, and it doesn't close within a row of the file. Close the quote, or remove it."
_TOO_LONG = "The line is too long."


class _BrokenQuotesError(Exception):
    """There is text after a closing quote."""


def split_lines(lines: Iterable[str], delimiter: str, width: int | None = None) -> Iterator[Record]:
    """Read records from lines, which keep their line ends.

    A value in quotes may contain line ends if the record has ``width`` cells (any number for None) and a bounded
    length, unless its lines look like rows. Otherwise only its first line is no row, and the next record begins
    with the following line.
    """
    coming = iter(lines)
    ahead: deque[str] = deque()
    number = 1
    while (line := ahead.popleft() if ahead else next(coming, None)) is not None:
        record = read_line(line, delimiter, number)
        if record.error == _OPEN:
            record = _over_lines(record, line, _following(ahead, coming), delimiter, width) or record
            for _ in range(record.lines - 1):
                ahead.popleft()
        yield record
        number += record.lines


def read_line(line: str, delimiter: str, number: int = 1) -> Record:
    """Read a line that is a whole record."""
    text, _ = _without_end(line)
    if len(text) > LONGEST_LINE:
        return Record(number, 1, "", (), _TOO_LONG)
    cells = _Cells(delimiter)
    try:
        error = None if cells.add(line) else _OPEN
    except _BrokenQuotesError:
        error = _AFTER_QUOTE
    return Record(number, 1, text, tuple(cells.read if error is None else text.split(delimiter)), error)


def _following(ahead: deque[str], coming: Iterator[str]) -> Iterator[str]:
    """The lines after the present one. They stay in ``ahead`` until a record takes them."""
    yield from tuple(ahead)
    for line in coming:
        ahead.append(line)
        yield line


def _over_lines(
    opened: Record, first: str, following: Iterator[str], delimiter: str, width: int | None
) -> Record | None:
    """The record that begins with a line whose last quote is open; None if it doesn't end as a record should."""
    cells, parts, size = _Cells(delimiter), [first], len(first)
    cells.add(first)
    for line in following:
        parts.append(line)
        size += len(line)
        if len(parts) > _MOST_LINES or size > _MOST_CHARACTERS:
            return None
        try:
            complete = cells.add(line)
        except _BrokenQuotesError:
            return None
        if width is not None and len(cells.read) > width:
            return None
        if complete:
            count = len(cells.read)
            if width not in (None, count) or _are_rows(parts, delimiter, count):
                return None
            text, _ = _without_end("".join(parts))
            return Record(opened.line, len(parts), text, tuple(cells.read))
    return None


def _are_rows(lines: Sequence[str], delimiter: str, width: int) -> bool:
    """Whether lines are rows with stray quotes in the first and the last, not the lines of a value.

    The first has ``width`` cells, and so have at least half of the others with text. With two cells all have, as
    one comma in a text is no sign of a row.
    """
    first, *others = [_count(line, delimiter) for line in lines if line.strip(f"{delimiter} \r\n")]
    rows = others.count(width)
    return first == width > 1 and (rows == len(others) if width == 2 else 2 * rows >= len(others))


def _count(line: str, delimiter: str) -> int:
    """The cells of a line that is a whole record, if a quote that doesn't close is a character."""
    cells = _Cells(delimiter)
    try:
        complete = cells.add(line)
    except _BrokenQuotesError:
        return line.count(delimiter) + 1
    return len(cells.read) + (0 if complete else cells.open_text.count(delimiter) + 1)


class _Cells:
    """The cells of one record, line by line."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._open: list[str] | None = None
        """The parts of a value whose quote isn't closed yet."""
        self.read: list[str] = []

    @property
    def open_text(self) -> str:
        """The part that is read of a value whose quote isn't closed yet."""
        return "".join(self._open or ())

    def add(self, line: str) -> bool:
        """Read a line; returns whether the record ends with it. Raises :class:`_BrokenQuotesError`.

        A quote inside a value that doesn't begin with one is a character.
        """
        text, end = _without_end(line)
        if self._open is None and '"' not in text:
            self.read += text.split(self._delimiter)
            return True
        position = 0
        while True:
            if self._open is None and text.startswith('"', position):
                self._open = []
                position += 1
            if self._open is None:
                stop = text.find(self._delimiter, position)
                stop = len(text) if stop < 0 else stop
                self.read.append(text[position:stop])
            else:
                closing = _closing_quote(text, position)
                if closing < 0:
                    self._open.append(text[position:] + end)
                    return False
                self._close(text[position:closing])
                stop = closing + 1
                if not text.startswith(self._delimiter, stop) and stop < len(text):
                    raise _BrokenQuotesError
            if stop >= len(text):
                return True
            position = stop + len(self._delimiter)

    def _close(self, part: str) -> None:
        self.read.append("".join((*(self._open or ()), part)).replace('""', '"'))
        self._open = None


def _closing_quote(text: str, start: int) -> int:
    """The place of the next quote that isn't doubled; -1 for none."""
    position = text.find('"', start)
    while position >= 0 and text.startswith('"', position + 1):
        position = text.find('"', position + 2)
    return position


def _without_end(line: str) -> tuple[str, str]:
    """A line's text and its line end."""
    for end in ("\r\n", "\n", "\r"):
        if line.endswith(end):
            return line.removesuffix(end), end
    return line, ""
