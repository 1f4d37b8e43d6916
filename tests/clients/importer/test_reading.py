"""Reading files: line numbers, and bad rows that don't affect the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.importer.options import ImportStoppedError
from clients.importer.sources import has_column, open_source, text_of

Write = Callable[..., Path]


def read(path: Path, delimiter: str | None = None) -> list[tuple[int, dict[str, object], str | None]]:
    rows = open_source(path, delimiter).rows()
    return [(row.line, dict(row.values), row.problem.code if row.problem else None) for row in rows]


def test_a_byte_order_mark_is_ignored(write: Write) -> None:
    assert read(write("a.csv", "\ufeffid,name\n1,Ada\n")) == [(2, {"id": "1", "name": "Ada"}, None)]
    assert read(write("a.ndjson", '\ufeff{"id": 1}\n')) == [(1, {"id": "1"}, None)]


def test_rows_have_the_number_of_their_first_line(write: Write) -> None:
    rows = read(write("a.csv", 'id,name\n1,"two\nlines"\n\n2,Grace\n'))
    assert [(line, values["id"]) for line, values, _ in rows] == [(2, "1"), (5, "2")]


def test_tabs_and_semicolons_can_be_delimiters(write: Write) -> None:
    assert read(write("a.tsv", "id\tname\n1\tAda\n")) == [(2, {"id": "1", "name": "Ada"}, None)]
    assert read(write("a.csv", "id;name\n1;Ada\n"), ";") == [(2, {"id": "1", "name": "Ada"}, None)]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (b"1\n", "column_count"),
        (b"1,2,3\n", "column_count"),
        (b'1,"a"b\n', "malformed_csv"),
        (b"1,\xff\xfe\n", "invalid_utf8"),
    ],
)
def test_a_bad_csv_row_does_not_affect_the_others(write: Write, row: bytes, code: str) -> None:
    rows = read(write("a.csv", b"id,name\n" + row + b"2,Grace\n"))
    assert [(line, problem) for line, _, problem in rows] == [(2, code), (3, None)]


def test_a_quote_that_never_closes_is_a_bad_row(write: Write) -> None:
    rows = read(write("a.csv", 'id,name\n1,Ada\n2,"Grace\n'))
    assert [(line, problem) for line, _, problem in rows] == [(2, None), (3, "malformed_csv")]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"id": 1', "malformed_json"),
        (b"[1]", "not_an_object"),
        (b'{"id": "\xff"}', "invalid_utf8"),
        (b'{"id": ' + b"[" * 100_000, "malformed_json"),
    ],
)
def test_a_bad_json_line_does_not_affect_the_others(write: Write, line: bytes, code: str) -> None:
    rows = read(write("a.jsonl", line + b'\n\n{"id": "2"}\n'))
    assert [(number, problem) for number, _, problem in rows] == [(1, code), (3, None)]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.xlsx", b"", "must end in one of .csv, .tsv, .ndjson, .jsonl"),
        ("a.csv", b"", "the first line must name the columns"),
        ("a.csv", b"id,name,id\n", "line 1: the column 'id' occurs twice"),
        ("a.csv", "id,name\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ("a.csv", b"id,\xff\n", "aren't UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_read_stops_with_one_sentence(
    write: Write, name: str, content: bytes, sentence: str
) -> None:
    with pytest.raises(ImportStoppedError, match=sentence):
        open_source(write(name, content))


def test_numbers_keep_the_files_text(write: Write) -> None:
    [(_, values, _)] = read(write("a.ndjson", '{"a": 1.10, "b": 12345678901234567890, "c": {"d": true}}\n'))
    assert [text_of(values, name) for name in ("a", "b", "c.d", "x", "a.b")] == [
        "1.10",
        "12345678901234567890",
        "true",
        "",
        "",
    ]
    assert has_column(values, "c.d")
    assert not has_column(values, "c.e")
    with pytest.raises(LookupError):
        text_of(values, "c")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(write: Write, content: bytes) -> None:
    for name in ("a.csv", "a.ndjson"):
        try:
            rows = read(write(name, b"id,name\n" + content))
        except ImportStoppedError:
            continue
        lines = [line for line, _, _ in rows]
        assert lines == sorted(set(lines))


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_a_key_that_contains_dots_is_found(values: dict[str, str]) -> None:
    assert all(text_of(json.loads(json.dumps(values)), name) == value for name, value in values.items())
