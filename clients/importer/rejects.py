"""Writes rejected rows to a file next to the input, with the same columns and the reasons."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from clients.importer.options import ImportStoppedError
from clients.importer.sources import Row, Source
from clients.importer.values import Problem

_ADDED = ("line", "pointer", "code", "message")


class Rejects:
    """The rejected rows. It holds line numbers and reasons; ``write`` reads the rows again.

    The file has the input's columns in their order, so a corrected file can be imported.
    """

    def __init__(self, source: Source, read_from: Path) -> None:
        self._source = source
        self.path = read_from.with_name(f"{read_from.stem}.rejects{source.suffix}")
        self._problems: dict[int, Sequence[Problem]] = {}

    def __len__(self) -> int:
        return len(self._problems)

    def add(self, problems: Mapping[int, Sequence[Problem]]) -> None:
        """``problems`` by line."""
        self._problems.update(problems)

    def write(self) -> None:
        """Write the file, or remove the one of an earlier run if no row was rejected."""
        try:
            if not self._problems:
                self.path.unlink(missing_ok=True)
                return
            partial = self.path.with_name(self.path.name + ".partial")
            with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                file.writelines(self._lines())
            partial.replace(self.path)
        except OSError as error:
            raise ImportStoppedError(
                f"The rejected rows can't be written to {self.path}: {error.strerror}."
            ) from None

    def _lines(self) -> Iterator[str]:
        columns = self._source.columns
        added = free_names(columns or ())
        if columns is not None:
            yield self._csv((*columns, *added))
        for row in self._source.rows():
            problems = self._problems.get(row.line)
            if problems is None:
                continue
            why = reasons(row.line, problems)
            if columns is None:
                yield _json_line(row, why)
            else:
                yield self._csv((*_fitted(row.raw, len(columns)), *why))

    def _csv(self, cells: Sequence[str | int]) -> str:
        text = io.StringIO()
        csv.writer(text, delimiter=self._source.delimiter, lineterminator="\n").writerow(cells)
        return text.getvalue()


def free_names(columns: Sequence[str], added: Sequence[str] = _ADDED) -> tuple[str, ...]:
    """Names for the added columns that don't occur in ``columns``."""
    names = []
    for name in added:
        while name in columns:
            name = f"reject_{name}"
        names.append(name)
    return tuple(names)


def reasons(line: int, problems: Sequence[Problem]) -> tuple[int, str, str, str]:
    """Line, pointers, codes and messages. Those of several problems are joined by "; "."""
    return (
        line,
        "; ".join(problem.pointer for problem in problems),
        "; ".join(problem.code for problem in problems),
        "; ".join(problem.message for problem in problems),
    )


def _fitted(cells: Sequence[str], width: int) -> Sequence[str]:
    # exactly ``width`` cells: the added ones must be under their column names
    if len(cells) <= width:
        return (*cells, *[""] * (width - len(cells)))
    return (*cells[: width - 1], " ".join(cells[width - 1 :]))


def _json_line(row: Row, why: tuple[int, str, str, str]) -> str:
    # the object keeps its text; a line that is no object becomes a string in a new object
    text = row.raw[0]
    if not row.values and row.problem is not None:
        text = json.dumps({"row": text.encode("utf-8", "replace").decode()}, ensure_ascii=False)
    names = free_names(tuple(row.values))
    reasons = json.dumps(dict(zip(names, why, strict=True)), ensure_ascii=False)
    body = text[1:-1].strip()
    return f"{{{body}, {reasons[1:]}\n" if body else f"{reasons}\n"
