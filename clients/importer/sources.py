"""Reads CSV and NDJSON row by row. A row that can't be read doesn't stop the import."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from clients.importer.options import ImportStoppedError
from clients.importer.records import LONGEST_LINE, Record, read_line, split_lines
from clients.importer.values import Problem

_ENCODING = "utf-8-sig"
_CSV_SUFFIXES = {".csv": ",", ".tsv": "\t"}
_NDJSON_SUFFIXES = (".ndjson", ".jsonl")

NOT_TEXT = Problem("", "invalid_utf8", "The row isn't Unicode text in UTF-8.")
ADDED = ("line", "pointer", "code", "message", "row")
"""The columns that a rejects file has in addition. The last is the text of a row that can't be read."""


class Row(NamedTuple):
    line: int
    """The row's first line in the file, from 1."""
    values: Mapping[str, Any]
    """By column. Numbers in NDJSON keep the file's text."""
    problem: Problem | None
    """The reason why it can't be used, or None."""
    raw: tuple[str, ...]
    """CSV: the cells. NDJSON: the line."""
    text: str = ""
    """The line, if it can't be read as a row."""
    came_from: str = ""
    """In a rejects file: the row's line in the input."""


class Source(Protocol):
    """A file of rows. It can be read more than once."""

    suffix: str
    """`.csv`, `.tsv` or `.ndjson`."""
    delimiter: str
    own: tuple[str, ...]
    """The columns, without those that a rejects file has in addition."""
    added: tuple[str, ...]
    """The names of the columns that a rejects file of this source has in addition."""
    lines: Counter[str]
    """After :meth:`rows`: the number of lines that hold rows, that name columns, and that are empty."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """None if the format has no header."""
        ...

    def rows(self) -> Iterator[Row]:
        """All rows in order, without empty lines."""
        ...


def open_source(path: Path, delimiter: str | None = None) -> Source:
    """Open a file by its suffix. Raises :class:`ImportStoppedError`."""
    suffix = path.suffix.lower()
    if suffix not in _CSV_SUFFIXES and suffix not in _NDJSON_SUFFIXES:
        known = ", ".join((*_CSV_SUFFIXES, *_NDJSON_SUFFIXES))
        raise ImportStoppedError(f"{path}: the name must end in one of {known}.")
    try:
        with path.open("rb") as file:
            start = file.read(2)
        if start in (b"\xff\xfe", b"\xfe\xff"):
            raise ImportStoppedError(f"{path}: this is UTF-16 text; save it as UTF-8.")
        if suffix in _NDJSON_SUFFIXES:
            return NdjsonSource(path)
        return CsvSource(path, delimiter or _CSV_SUFFIXES[suffix])
    except OSError as error:
        raise ImportStoppedError(f"{path} can't be read: {error.strerror}.") from None


class CsvSource:
    """CSV with a header (RFC 4180). A row that isn't CSV takes one line, and the next row begins after it."""

    def __init__(self, path: Path, delimiter: str) -> None:
        self._path = path
        self.suffix = ".tsv" if delimiter == "\t" else ".csv"
        self.delimiter = delimiter
        self.lines: Counter[str] = Counter()
        self.columns: tuple[str, ...] = self._header()
        data, last = self.columns[: -len(ADDED)], self.columns[-len(ADDED) :]
        is_rejects = bool(data) and last == free_names(data)
        self.own = data if is_rejects else self.columns
        self.added = last if is_rejects else free_names(self.columns)
        self._is_rejects = is_rejects

    def rows(self) -> Iterator[Row]:
        header: Record | None = None
        self.lines.clear()
        for record in self._records(len(self.columns)):
            if record.blank:
                self.lines["empty"] += record.lines
            elif header is None:
                header = record
                self.lines["header"] += record.lines
            else:
                self.lines["rows"] += record.lines
                yield self._row(record)

    def fitted(self, cells: Sequence[str]) -> tuple[str, ...]:
        """As many cells as the file has columns of its own, so that those that follow are under their names."""
        width = len(self.own)
        if len(cells) <= width:
            return (*cells, *[""] * (width - len(cells)))
        return (*cells[: width - 1], " ".join(cells[width - 1 :]))

    def _row(self, record: Record) -> Row:
        problem, text, came_from = _problem_of(record, len(self.columns)), record.text, ""
        own, added = record.cells, tuple[str, ...]()
        if problem is None:
            own, added = own[: len(self.own)], own[len(self.own) :]
        if added:
            came_from, *_, text = added
        if added and text.strip():
            # It couldn't be read when the rejects file was written. The user may have corrected its text or cells.
            given = read_line(text, self.delimiter)
            problem = _problem_of(given, len(self.own))
            if problem is None:
                own = given.cells
            elif own != self.fitted(given.cells):
                problem = None
        values = dict(zip(self.columns, (*own, *added), strict=False))
        if problem is not None:
            return Row(record.line, values, problem, own, text, came_from)
        return Row(record.line, values, None if all(map(is_text, own)) else NOT_TEXT, own, "", came_from)

    def _header(self) -> tuple[str, ...]:
        record = next((record for record in self._records(None) if not record.blank), None)
        if record is None:
            raise ImportStoppedError(f"{self._path}: the first line must name the columns.")
        if record.error is not None:
            raise ImportStoppedError(
                f"{self._path}, line {record.line}: the columns can't be read. {record.error}"
            )
        columns = tuple(cell.strip() for cell in record.cells)
        twice = {name for name in columns if columns.count(name) > 1 and name}
        if twice:
            raise ImportStoppedError(f"{self._path}, line 1: the column '{min(twice)}' occurs twice.")
        if not all(is_text(name) for name in columns):
            raise ImportStoppedError(f"{self._path}, line 1: the columns' names aren't UTF-8 text.")
        return columns

    def _records(self, width: int | None) -> Iterator[Record]:
        """All records. ``width`` doesn't apply to the header, which may have line ends in its names."""
        with self._path.open(encoding=_ENCODING, errors="surrogateescape", newline="") as file:
            yield from split_lines(lines_of(file), self.delimiter, width)


class NdjsonSource:
    """One JSON object per line."""

    suffix = ".ndjson"
    delimiter = ""
    columns: None = None
    own: tuple[str, ...] = ()
    added: tuple[str, ...] = ADDED

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines: Counter[str] = Counter()

    def rows(self) -> Iterator[Row]:
        self.lines.clear()
        with self._path.open(encoding=_ENCODING, errors="surrogateescape", newline="") as file:
            for number, line in enumerate(lines_of(file), 1):
                text = line.strip()
                self.lines["rows" if text else "empty"] += 1
                if text:
                    yield self._row(number, text)

    def _row(self, number: int, text: str) -> Row:
        values, problem = _parse(text)
        came_from = ""
        if values.keys() == set(ADDED):  # a line of a rejects file that had been unreadable
            came_from, text = str(values["line"]), str(values["row"]).strip()
            values, problem = _parse(text)
        # the beginning of a longer line could look like a row
        kept = text if problem and len(text) <= LONGEST_LINE else ""
        return Row(number, values, problem, (text,), kept, came_from)


def lines_of(file: TextIO) -> Iterator[str]:
    """The lines of a file with their ends (LF, CR LF or CR). Of one that is too long, only the beginning."""
    limit = LONGEST_LINE + 2
    line = file.readline(limit)
    while line:
        following = file.readline(limit)
        if len(line) >= limit:  # the line goes on
            while following and line[-1] not in "\r\n":
                line = line[: LONGEST_LINE + 1] + following[-1]
                following = file.readline(limit)
            if line.endswith("\r") and following == "\n":
                following = file.readline(limit)
        yield line
        line = following


def free_names(columns: Sequence[str]) -> tuple[str, ...]:
    """Names for :data:`ADDED` that don't occur in ``columns``."""
    names = []
    for name in ADDED:
        while name in columns:
            name = f"reject_{name}"
        names.append(name)
    return tuple(names)


def _problem_of(record: Record, width: int) -> Problem | None:
    if record.error is not None:
        return Problem("", "malformed_csv", record.error)
    count = len(record.cells)
    if count == width:
        return None
    return Problem(
        "", "column_count", f"The row has {count} {'column' if count == 1 else 'columns'}, the header has {width}."
    )


def _parse(text: str) -> tuple[Mapping[str, Any], Problem | None]:
    if len(text) > LONGEST_LINE:
        return {}, Problem("", "malformed_json", "The line is too long.")
    if not is_text(text):
        return {}, NOT_TEXT
    try:
        value = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except ValueError as error:
        where = f" (column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        return {}, Problem("", "malformed_json", f"The line isn't JSON{where}.")
    except RecursionError:
        return {}, Problem("", "malformed_json", "The line is nested too deeply.")
    if not isinstance(value, dict):
        return {}, Problem("", "not_an_object", "The line must be a JSON object.")
    return value, None


def text_of(values: Mapping[str, Any], column: str) -> str:
    """A column's text; empty if it is missing or null. In NDJSON a column may be a dotted path.

    Raises LookupError for an object or a list.
    """
    value = _look_up(values, column)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    raise LookupError(column)


def has_column(values: Mapping[str, Any], column: str) -> bool:
    """Whether a row has the column, even as null."""
    return _look_up(values, column, default=values) is not values


def _look_up(values: Mapping[str, Any], column: str, default: object = None) -> object:
    if column in values:
        return values[column]
    found: object = values
    for part in column.split("."):
        if not isinstance(found, dict) or part not in found:
            return default
        found = found[part]
    return found


def is_text(text: str) -> bool:
    # bytes that aren't UTF-8 were read as lone surrogates, which can't be encoded
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
