"""Writes rejected rows to a file next to the input, with the same columns and the reasons."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from clients.importer.encodings import open_text
from clients.importer.options import ImportStoppedError
from clients.importer.sources import ADDED, CsvSource, Row, Source, free_names, is_text
from clients.importer.values import Problem


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
            with open_text(partial, self._source.encoding.removesuffix("-sig"), "w") as file:
                file.writelines(self._lines())
            partial.replace(self.path)
        except OSError as error:
            raise ImportStoppedError(
                f"The rejected rows can't be written to {self.path}: {error.strerror}."
            ) from None

    def _lines(self) -> Iterator[str]:
        source = self._source
        if isinstance(source, CsvSource):
            if source.names_separator:
                yield f"sep={source.delimiter}\n"
            yield self._csv((*source.own, *source.added))
        for row in source.rows():
            problems = self._problems.get(row.line)
            if problems is None:
                continue
            why = reasons(row.came_from or row.line, problems)
            if isinstance(source, CsvSource):
                yield self._csv((*source.fitted(row.raw), *why, row.text))
            else:
                yield _json_line(row, why)

    def _csv(self, cells: Sequence[str | int]) -> str:
        # Python 3.11's csv.writer puts quotes around a line feed, but not around a carriage return
        special = ('"', "\r", "\n", self._source.delimiter)
        texts = map(str, cells)
        quoted = (
            '"' + text.replace('"', '""') + '"' if any(each in text for each in special) else text
            for text in texts
        )
        return self._source.delimiter.join(quoted) + "\n"


def reasons(line: int | str, problems: Sequence[Problem]) -> tuple[int | str, str, str, str]:
    """Line, pointers, codes and messages. Those of several problems are joined by "; "."""
    return (
        line,
        "; ".join(problem.pointer for problem in problems),
        "; ".join(problem.code for problem in problems),
        "; ".join(problem.message for problem in problems),
    )


def _json_line(row: Row, why: tuple[int | str, str, str, str]) -> str:
    if row.problem is not None:
        # a line that is no object becomes a string in a new object; escapes keep bytes that are no text
        document = dict(zip(ADDED, (*why, row.text), strict=True))
        return json.dumps(document, ensure_ascii=not is_text(row.text)) + "\n"
    # the object keeps its text
    names = free_names(tuple(row.values))
    reasons = json.dumps(dict(zip(names, why, strict=False)), ensure_ascii=False)
    body = row.raw[0][1:-1].strip()
    return f"{{{body}, {reasons[1:]}\n" if body else f"{reasons}\n"
