"""Reads CSV and NDJSON row by row. A row that can't be read doesn't stop the import."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from clients.importer.encodings import DEFAULT, encoding_of, open_text
from clients.importer.options import ImportStoppedError
from clients.importer.records import LONGEST_LINE, Record, read_line, split_lines
from clients.importer.values import InvalidValueError, Problem

_CSV_SUFFIXES = {".csv": ",", ".tsv": "\t"}
_NDJSON_SUFFIXES = (".ndjson", ".jsonl")

NOT_TEXT = Problem(
    "",
    "invalid_utf8",
    "The row isn't Unicode text in UTF-8. Name the encoding of the file, as in --encoding windows-1252.",
)
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\r\n])"?(?:\1|\s)*', re.IGNORECASE)
"""The first line by which Excel names the separator."""
_SEPARATORS = (",", ";", "\t", "|")
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
    encoding: str
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


def open_source(
    path: Path, delimiter: str | None = None, encoding: str = DEFAULT, used: Iterable[str] | None = None
) -> Source:
    """Open a file by its suffix. Raises :class:`ImportStoppedError`.

    No two columns may have the same name if it is one of those ``used``. None: of all.
    """
    suffix = path.suffix.lower()
    if suffix not in _CSV_SUFFIXES and suffix not in _NDJSON_SUFFIXES:
        known = ", ".join((*_CSV_SUFFIXES, *_NDJSON_SUFFIXES))
        raise ImportStoppedError(f"{path}: the name must end in one of {known}.")
    try:
        encoding = encoding_of(path, encoding)
        if suffix in _NDJSON_SUFFIXES:
            return NdjsonSource(path, encoding)
        return CsvSource(path, delimiter or _CSV_SUFFIXES[suffix], encoding, used)
    except OSError as error:
        raise ImportStoppedError(f"{path} can't be read: {error.strerror}.") from None


class CsvSource:
    """CSV with a header (RFC 4180). A row that isn't CSV takes one line, and the next row begins after it."""

    def __init__(self, path: Path, delimiter: str, encoding: str, used: Iterable[str] | None) -> None:
        self._path = path
        self.encoding = encoding
        with open_text(path, encoding) as file:
            named = _SEPARATOR_LINE.fullmatch(next(lines_of(file), ""))
        self.names_separator = named is not None
        self.delimiter = named[1] if named else delimiter
        self.suffix = ".tsv" if self.delimiter == "\t" else ".csv"
        self.lines: Counter[str] = Counter()
        header = self._header()
        self._header_text = header.text
        self.columns: tuple[str, ...] = self._names(header, used)
        data, last = self.columns[: -len(ADDED)], self.columns[-len(ADDED) :]
        is_rejects = bool(data) and last == free_names(data)
        self.own = data if is_rejects else self.columns
        self.added = last if is_rejects else free_names(self.columns)
        self._is_rejects = is_rejects

    def rows(self) -> Iterator[Row]:
        header: Record | None = None
        self.lines.clear()
        self.lines["header"] += self.names_separator
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
        problem = None if all(map(is_text, own)) else _not_text(self.encoding)
        return Row(record.line, values, problem, own, "", came_from)

    def separator_hint(self, wanted: Iterable[str]) -> str:
        """A sentence if another separator splits the header better, for example into the ``wanted`` columns."""
        for separator in _SEPARATORS:
            columns = [cell.strip() for cell in read_line(self._header_text, separator).cells]
            if len(columns) > len(self.columns) and (
                len(self.columns) == 1 or all(is_in(column, columns) for column in wanted)
            ):
                shown = separator.replace("\t", "\\t")
                count = "one column" if len(self.columns) == 1 else f"{len(self.columns)} columns"
                option = f'delimiter = "{shown}"'
                question = f"The header has {count}. Is the separator '{shown}'?"
                return f"{question} Then write {option} at the mapping's top."
        return ""

    def _header(self) -> Record:
        record = next((record for record in self._records(None) if not record.blank), None)
        if record is None:
            raise ImportStoppedError(f"{self._path}: the first line must name the columns.")
        if record.error is not None:
            raise ImportStoppedError(
                f"{self._path}, line {record.line}: the columns can't be read. {record.error}"
            )
        return record

    def _names(self, header: Record, used: Iterable[str] | None) -> tuple[str, ...]:
        columns = tuple(cell.strip() for cell in header.cells)
        place = f"{self._path}, line {header.line}"
        twice = {name for name in columns if columns.count(name) > 1 and name}
        if used is not None:
            twice = {name for name in twice if any(is_in(each, [name]) for each in used)}
        if twice:
            raise ImportStoppedError(f"{place}: the column '{min(twice)}' occurs twice, and the mapping uses it.")
        if not all(is_text(name) for name in columns):
            raise ImportStoppedError(
                f"{place}: the columns' names aren't {_named(self.encoding)} text. "
                "Name the file's encoding with --encoding."
            )
        return columns

    def _records(self, width: int | None) -> Iterator[Record]:
        """All records, without the line that names the separator. ``width`` doesn't apply to the header, which may
        have line ends in its names."""
        with open_text(self._path, self.encoding) as file:
            for record in split_lines(lines_of(file), self.delimiter, width):
                if record.line > 1 or not self.names_separator:
                    yield record


class NdjsonSource:
    """One JSON object per line."""

    suffix = ".ndjson"
    delimiter = ""
    columns: None = None
    own: tuple[str, ...] = ()
    added: tuple[str, ...] = ADDED

    def __init__(self, path: Path, encoding: str) -> None:
        self._path = path
        self.encoding = encoding
        self.lines: Counter[str] = Counter()

    def rows(self) -> Iterator[Row]:
        self.lines.clear()
        with open_text(self._path, self.encoding) as file:
            for number, line in enumerate(lines_of(file), 1):
                text = line.strip()
                self.lines["rows" if text else "empty"] += 1
                if text:
                    yield self._row(number, text)

    def _row(self, number: int, text: str) -> Row:
        values, problem = _parse(text, self.encoding)
        came_from = ""
        if values.keys() == set(ADDED):  # a line of a rejects file that had been unreadable
            came_from, text = str(values["line"]), str(values["row"]).strip()
            values, problem = _parse(text, self.encoding)
        # the beginning of a longer line could look like a row
        kept = text if problem and len(text) <= LONGEST_LINE else ""
        return Row(number, values, problem, (text,), kept, came_from)


def lines_of(file: TextIO) -> Iterator[str]:
    """The lines of a file with their ends (LF, CR LF or CR), without a byte order mark.

    Of a line that is too long, only the beginning.
    """
    limit = LONGEST_LINE + 2
    line = file.readline(limit).removeprefix("\ufeff")
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


def _parse(text: str, encoding: str) -> tuple[Mapping[str, Any], Problem | None]:
    if len(text) > LONGEST_LINE:
        return {}, Problem("", "malformed_json", "The line is too long.")
    if not is_text(text):
        return {}, _not_text(encoding)
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
    try:
        return _look_up(values, column, default=values) is not values
    except InvalidValueError:
        return True


def is_in(column: str, columns: Collection[str]) -> bool:
    """Whether a name of a template is one of the columns, or a dotted path into the JSON of one."""
    parts = column.split(".")
    return any(".".join(parts[:length]) in columns for length in range(len(parts), 0, -1))


def _look_up(values: Mapping[str, Any], column: str, default: object = None) -> object:
    if column in values:
        return values[column]
    found: object = values
    for part in column.split("."):
        if isinstance(found, str) and found.strip():
            found = _parsed(found)
        if not isinstance(found, dict) or part not in found:
            return default
        found = found[part]
    return found


@lru_cache(maxsize=16)  # several fields are mapped from one cell
def _parsed(cell: str) -> object:
    """The JSON value of a cell; numbers keep their text. Raises :class:`InvalidValueError`."""
    try:
        return json.loads(cell, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        raise InvalidValueError(
            "malformed_json", "The column doesn't hold JSON, of which the mapping uses a part."
        ) from None


def _not_text(encoding: str) -> Problem:
    if _named(encoding) == "UTF-8":
        return NOT_TEXT
    return Problem("", "invalid_encoding", f"The row isn't text in {_named(encoding)}.")


def _named(encoding: str) -> str:
    return "UTF-8" if encoding.startswith("utf-8") else encoding


def is_text(text: str) -> bool:
    # bytes that aren't UTF-8 were read as lone surrogates, which can't be encoded
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
