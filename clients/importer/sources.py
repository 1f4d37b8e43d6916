"""Reads CSV and NDJSON row by row. A row that can't be read doesn't stop the import."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from clients.importer.options import ImportStoppedError
from clients.importer.values import Problem

_ENCODING = "utf-8-sig"
_CSV_SUFFIXES = {".csv": ",", ".tsv": "\t"}
_NDJSON_SUFFIXES = (".ndjson", ".jsonl")

NOT_TEXT = Problem("", "invalid_utf8", "The row isn't Unicode text in UTF-8.")


class Row(NamedTuple):
    line: int
    """The row's first line in the file, from 1."""
    values: Mapping[str, Any]
    """By column. Numbers in NDJSON keep the file's text."""
    problem: Problem | None
    """The reason why it can't be used, or None."""
    raw: tuple[str, ...]
    """CSV: the cells. NDJSON: the line."""


class Source(Protocol):
    """A file of rows. It can be read more than once."""

    suffix: str
    """`.csv`, `.tsv` or `.ndjson`."""
    delimiter: str

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
    """CSV with a header (RFC 4180)."""

    def __init__(self, path: Path, delimiter: str) -> None:
        self._path = path
        self.suffix = ".tsv" if delimiter == "\t" else ".csv"
        self.delimiter = delimiter
        self.columns: tuple[str, ...] = self._header()

    def rows(self) -> Iterator[Row]:
        rows = self._read()
        next(rows)
        width = len(self.columns)
        for line, cells, error in rows:
            problem = None
            if error is not None:
                problem = Problem("", "malformed_csv", f"The row isn't CSV: {error}.")
            elif len(cells) != width:
                problem = Problem(
                    "",
                    "column_count",
                    f"The row has {len(cells)} {'column' if len(cells) == 1 else 'columns'}, "
                    f"the header has {width}.",
                )
            elif not all(_is_text(cell) for cell in cells):
                problem = NOT_TEXT
            yield Row(line, dict(zip(self.columns, cells, strict=False)), problem, tuple(cells))

    def _header(self) -> tuple[str, ...]:
        _, cells, error = next(self._read(), (1, [], None))
        columns = tuple(cell.strip() for cell in cells)
        if error is not None or not any(columns):
            raise ImportStoppedError(f"{self._path}: the first line must name the columns.")
        twice = {name for name in columns if columns.count(name) > 1 and name}
        if twice:
            raise ImportStoppedError(f"{self._path}, line 1: the column '{min(twice)}' occurs twice.")
        if not all(_is_text(name) for name in columns):
            raise ImportStoppedError(f"{self._path}, line 1: the columns' names aren't UTF-8 text.")
        return columns

    def _read(self) -> Iterator[tuple[int, list[str], csv.Error | None]]:
        with self._path.open(encoding=_ENCODING, errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, delimiter=self.delimiter, strict=True)
            while True:
                line = reader.line_num + 1
                error: csv.Error | None = None
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as caught:
                    cells, error = [], caught
                if cells or error is not None:
                    yield line, cells, error


class NdjsonSource:
    """One JSON object per line."""

    suffix = ".ndjson"
    delimiter = ""
    columns: None = None

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self) -> Iterator[Row]:
        with self._path.open(encoding=_ENCODING, errors="surrogateescape", newline="\n") as file:
            for number, line in enumerate(file, 1):
                text = line.strip()
                if text:
                    values, problem = _parse(text)
                    yield Row(number, values, problem, (text,))


def _parse(text: str) -> tuple[Mapping[str, Any], Problem | None]:
    if not _is_text(text):
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


def _is_text(text: str) -> bool:
    # bytes that aren't UTF-8 were read as lone surrogates, which can't be encoded
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
