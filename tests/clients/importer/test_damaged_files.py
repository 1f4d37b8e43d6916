"""Damaged files: every line is accounted for, and a bad line doesn't affect the others."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.importer import records
from clients.importer.options import ImportStoppedError
from clients.importer.rejects import Rejects
from clients.importer.sources import CsvSource, Source, open_source
from tests.clients.importer.conftest import HEADER, Ran, people
from tests.clients.importer.peer import Peer
from tests.clients.importer.test_import import UNKEYED, numbers

Write = Callable[..., Path]
Run = Callable[..., Ran]

MAPPING = """\
kind = "profiles"
{delimiter}
[fields]
user_id = "{{id}}"
email = "{{email}}"
name = "{{name}}"
signup_date = "2026-01-05T10:00:00Z"
account_status = "active"
lifecycle_stage = "active"
"""
ENDS = ("\n", "\r\n", "\r")
DELIMITERS = (",", ";", "\t", "|")


def rejected(tmp_path: Path, name: str = "people.rejects.csv") -> list[dict[str, str]]:
    with (tmp_path / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_stray_quote_costs_one_row(peer: Peer, write: Write, run: Run, tmp_path: Path) -> None:
    rows = 'a1,a1@example.com,Ann\na2,a2@example.com,"Bob\na3,a3@example.com,Cid\na4,a4@example.com,Dan\n'
    write("people.csv", "id,email,name\n" + rows)
    ran = run(mapping=MAPPING.format(delimiter=""))
    assert (ran.code, numbers(ran)) == (1, ["4", "3", "3", "0", "0", "1"])
    assert sorted(peer.users) == ["a1", "a3", "a4"]
    [reject] = rejected(tmp_path)
    assert (reject["line"], reject["code"], reject["row"]) == ("3", "malformed_csv", 'a2,a2@example.com,"Bob')
    assert (reject["id"], reject["email"]) == ("a2", "a2@example.com")


def test_a_stray_quote_in_a_long_file_costs_one_row(peer: Peer, write: Write, run: Run, tmp_path: Path) -> None:
    rows = [f"{n},p{n}@example.com,Person {n},2026-01-05T10:00:00Z,DE\n" for n in range(6000)]
    rows[1] = rows[1].replace("Person", '"Person')
    write("people.csv", HEADER + "".join(rows))
    ran = run(mapping=UNKEYED)
    assert numbers(ran) == ["6,000", "5,999", "5,999", "0", "0", "1"]
    assert re.search(r"^lines +6,001 *$", ran.output, re.MULTILINE)
    assert [reject["line"] for reject in rejected(tmp_path)] == ["3"]


@pytest.mark.parametrize(
    ("row", "lines"),
    [
        ('2,"Ann" Smith', 1),
        ('2,"Ann', 1),
        ('"2,Ann', 1),
        ('2,"Ann""', 1),
        ('2,"', 1),
        ('2,"a\\"b"', 1),
        ('2,"Ann",', 1),
        ('2,"two\nlines",x,y', 2),
        ('2,"two\nlines" x', 2),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_a_line_with_broken_quotes_is_rejected_alone(write: Write, row: str, lines: int, last: bool) -> None:
    content = "id,name\n1,Ada\n" + row + ("" if last else "\n3,Cid\n\n4,Dan\n")
    source = open_source(write("a.csv", content))
    read = [(made.line, made.problem is None, made.text) for made in source.rows()]
    first, *others = row.split("\n")
    assert read[:2] == [(2, True, ""), (3, False, first)]
    assert [(line, text) for line, good, text in read[2:] if not good] == [
        (4 + index, text) for index, text in enumerate(others)
    ]
    good = [] if last else [3 + lines, 5 + lines]
    assert [line for line, good, _ in read[2:] if good] == good


BOB = 'a2,a2@example.com,"Bob'


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    ("opened", "between", "last", "rejected_rows"),
    [
        (BOB, [], 'a5,a5@example.com,Eve"', 1),
        (BOB, [], 'a5,a5@example.com,"Eve', 2),
        (BOB, [], 'a5,a5@example.com,"', 2),
        (BOB, ["", "a4,a4@example.com,Dan", ",,"], 'a5,a5@example.com,Eve"', 1),
        (BOB, ["a3,a3@example.com", "a4,a4@example.com,Dan"], 'a5,a5@example.com,Eve"', 2),
        ('"a2","a2@example.com, x","', ["a4,a4@example.com,Dan"], 'a5,a5@example.com,"', 2),
        ('a2,"a2@example.com,Bob', ["a4,a4@example.com,Dan"], 'a5,a5@example.com",Eve', 1),
        ('a2,"a2@example.com,Bob', [], 'a5,a5@example.com,",Eve"', 1),
        ('"a2,a2@example.com,Bob', ["a4,a4@example.com,Dan"], 'a5",a5@example.com,Eve', 1),
    ],
)
def test_two_stray_quotes_do_not_swallow_the_rows_between_them(
    write: Write, end: str, opened: str, between: list[str], last: str, rejected_rows: int
) -> None:
    lines = ["id,email,name", "a1,a1@example.com,Ann", opened, *between, last, "a6,a6@example.com,Fay"]
    rows = list(open_source(write("a.csv", end.join(lines))).rows())
    bad = [row.text for row in rows if row.problem]
    assert bad[0] == opened
    assert len(bad) == rejected_rows
    complete = {line for line in lines[1:] if line.count(",") == 2 and line.strip(",") and '"' not in line}
    assert complete <= {",".join(row.raw) for row in rows if not row.problem}


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("id,note,name", '1,"Dear Ann\nhow, are, you\nyes, well, bye",Ann'),
        ("id,name,note", '1,Ann,"Dear Ann\nthe street, the town\nbye"'),
        ("id,name,note", '1,Ann,"Dear Ann\none, two, three\nbye\nBen"'),
        ("id,note", '1,"Dear Ann\nthanks\nbye, Ben"'),
        ("note", '"Dear Ann\nbye"'),
    ],
)
def test_a_text_of_several_lines_may_hold_separators(write: Write, header: str, row: str) -> None:
    [read] = open_source(write("a.csv", f"{header}\n{row}\n")).rows()
    assert read.problem is None
    assert str(read.values["note"]).startswith("Dear Ann")


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ('Ann "Bob" Smith', 'Ann "Bob" Smith'),
        ('5" nail', '5" nail'),
        ('Bob"', 'Bob"'),
        ('"say ""hi"""', 'say "hi"'),
        ('"two\r\nlines, and\n\nmore"', "two\r\nlines, and\n\nmore"),
        ('"a\nb""c\n""d"', 'a\nb"c\n"d'),
        ('""', ""),
        ('""""', '"'),
        ("x" * 200_000, "x" * 200_000),
        ("A\x00B", "A\x00B"),
    ],
)
def test_quotes_and_line_ends_inside_a_value_are_kept(write: Write, cell: str, value: str) -> None:
    rows = list(open_source(write("a.csv", f"id,name,more\n1,{cell},x\n2,Ben,y\n")).rows())
    assert [(row.values["name"], row.problem) for row in rows] == [(value, None), ("Ben", None)]


def test_a_value_over_too_many_lines_is_a_broken_quote(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'id,name\n1,"' + "line\n" * 4 + 'end"\n2,Ben\n'
    assert len(list(open_source(write("a.csv", text)).rows())) == 2
    for bound, value in (("_MOST_LINES", 4), ("_MOST_CHARACTERS", 20)):
        with monkeypatch.context() as patched:
            patched.setattr(records, bound, value)
            rows = list(open_source(write("a.csv", text)).rows())
            assert [row.line for row in rows if row.problem is None] == [7]
            assert [row.line for row in rows] == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson"])
def test_a_line_without_an_end_is_rejected_and_not_held(
    write: Write, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LONGEST_LINE", 30)
    monkeypatch.setattr("clients.importer.sources.LONGEST_LINE", 30)
    good = '{"id": "2"}' if name == "a.ndjson" else "2,Ben"
    for end in ENDS:
        for length in range(25, 100):
            source = open_source(write(name, f"id,name{end}1,{'x' * length}{end}{good}{end}{end}{good}"))
            rows = list(source.rows())
            assert [row.line for row in rows if row.problem is None][-2:] == [3, 5]
            assert source.lines.total() == 5
            assert all(len(row.text) <= 30 for row in rows)


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ('id,"name\n', "line 1: the columns can't be read. A quote opens a value"),
        (
            'id,email,name,"more\n1,a@example.com,A,x\n2,b@example.com,B,y"\n',
            "line 1: the columns can't be read. A quote opens a value",
        ),
        ('id,"na"me\n', "line 1: the columns can't be read. There is text after a closing quote"),
    ],
)
def test_a_header_with_a_stray_quote_stops_with_one_sentence(write: Write, header: str, sentence: str) -> None:
    with pytest.raises(ImportStoppedError, match=sentence):
        open_source(write("a.csv", header + "1,Ada\n" * 10))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ('2,p2@example.com,"Ben,2026-01-05T10:00:00Z,DE', "2,p2@example.com,Ben,2026-01-05T10:00:00Z,DE"),
        ('2,p2@example.com,"Ben" B,2026-01-05T10:00:00Z,DE', "2,p2@example.com,Ben B,2026-01-05T10:00:00Z,DE"),
        ("2,p2@example.com,B, Ben,2026-01-05T10:00:00Z,DE", '2,p2@example.com,"B, Ben",2026-01-05T10:00:00Z,DE'),
        ("2,p2@example.com", "2,p2@example.com,Ben,2026-01-05T10:00:00Z,DE"),
    ],
)
def test_a_rejected_line_is_corrected_in_its_cells_or_in_its_text(
    peer: Peer, write: Write, run: Run, tmp_path: Path, end: str, broken: str, mended: str
) -> None:
    lines = people(3).splitlines()
    lines[2] = broken
    write("people.csv", end.join(lines))
    assert run(mapping=UNKEYED).code == 1
    [reject] = rejected(tmp_path)
    assert (reject["line"], reject["row"]) == ("3", broken)

    assert run("people.rejects.csv", mapping=UNKEYED).code == 1  # uncorrected
    assert sorted(peer.users) == ["u-1", "u-3"]
    [again] = rejected(tmp_path, "people.rejects.rejects.csv")
    assert again == reject

    names = lines[0].split(",")
    cells = dict(zip(names, next(csv.reader([mended])), strict=True))
    for number, corrected in enumerate((reject | cells, reject | {"row": mended})):
        peer.users.pop("u-2", None)
        with (tmp_path / f"mended{number}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, reject.keys())
            writer.writeheader()
            writer.writerow(corrected)
        assert run(f"mended{number}.csv", mapping=UNKEYED).code == 0
        assert peer.users["u-2"]["email"] == "p2@example.com"


def test_rejected_json_lines_can_be_corrected(peer: Peer, write: Write, run: Run, tmp_path: Path) -> None:
    mapping = MAPPING.format(delimiter="").replace('"{id}"', '"u-{line}"')
    good = '{"email": "a@example.com", "name": "Ada"}'
    write("people.ndjson", f"{good}\r\n\r\n{good[:-1]}\r{good}\n".encode() + b'{"email": "\xff"}\n[1]')
    assert numbers(run("people.ndjson", mapping=mapping)) == ["5", "2", "2", "0", "0", "3"]
    rejects = tmp_path / "people.rejects.ndjson"
    found = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(reject["line"], reject["code"]) for reject in found] == [
        (3, "malformed_json"),
        (5, "invalid_utf8"),
        (6, "not_an_object"),
    ]
    assert numbers(run("people.rejects.ndjson", mapping=mapping))[-1] == "3"  # uncorrected
    assert sorted(peer.users) == ["u-1", "u-4"]
    rejects.write_text("".join(json.dumps(reject | {"row": good}) + "\n" for reject in found))
    assert run("people.rejects.ndjson", mapping=mapping).code == 0
    assert sorted(peer.users) == ["u-1", "u-3", "u-4", "u-5", "u-6"]


DAMAGES = (
    lambda text, at: text[:at] + '"' + text[at:],
    lambda text, at: text[:at] + text[at + 1 :],
    lambda text, at: text[:at] + "\n" + text[at:],
    lambda text, at: text[:at] + "\r" + text[at:],
    lambda text, at: text[:at] + '","' + text[at:],
    lambda text, at: text[:at] + ",;\t|" + text[at:],
    lambda text, at: text[:at] + "\x00\ufeff" + text[at:],
    lambda text, at: text[:at] + "\udcff" + text[at:],
    lambda text, at: text[:at],
)
VALUES = st.sampled_from(["Ann", "", " ", 'Ann "A" B', "two\nlines", "two\r\nlines\r", '"', ",;|\t", "Ж\u2028x"])


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A delimiter and a file whose header is whole."""
    delimiter = draw(st.sampled_from(DELIMITERS))
    text = ""
    for number in range(draw(st.integers(1, 8))):
        cells = [f"u-{number}", f"p{number}@example.com", draw(VALUES)]
        quoted = ['"' + cell.replace('"', '""') + '"' if draw(st.booleans()) else cell for cell in cells]
        text += delimiter.join(quoted) + draw(st.sampled_from((*ENDS, "\n\n")))
    for _ in range(draw(st.integers(0, 5))):
        text = draw(st.sampled_from(DAMAGES))(text, draw(st.integers(0, len(text))))
    header = draw(st.sampled_from(["", "\ufeff"])) + delimiter.join(("id", "email", "name"))
    return delimiter, (header + draw(st.sampled_from(ENDS)) + text).encode("utf-8", "surrogateescape")


def lines_in(content: bytes) -> list[str]:
    text = content.decode("utf-8-sig", "surrogateescape")
    return [line for line in re.split(r"(?<=\n)|(?<=\r)(?!\n)", text) if line]


@given(damaged())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400, deadline=None)
def test_every_line_of_a_damaged_file_is_a_row_or_empty_or_rejected_as_it_is(
    write: Write, file: tuple[str, bytes]
) -> None:
    delimiter, content = file
    lines = lines_in(content)
    source = open_source(write("a.csv", content), delimiter)
    rows = list(source.rows())
    starts = [row.line for row in rows]
    assert starts == sorted(set(starts))
    assert source.lines.total() == len(lines)
    for row in rows:
        if row.text:
            assert row.problem is not None
            assert row.text == re.sub(r"[\r\n]+\Z", "", lines[row.line - 1])
    covered = {
        line
        for record in records.split_lines(lines, delimiter, 3)
        for line in range(record.line, record.line + record.lines)
    }
    assert covered == set(range(1, len(lines) + 1))
    for number, line in enumerate(lines[1:], 2):
        if '"' not in content.decode("utf-8", "replace") and any(part.strip() for part in line.split(delimiter)):
            assert number in starts
    _unreadable_rows_stay_unreadable(write, source, [row.line for row in rows if row.text], delimiter)


def _unreadable_rows_stay_unreadable(write: Write, source: Source, lines: list[int], delimiter: str) -> None:
    """As long as nobody has corrected the rejects file."""
    assert isinstance(source, CsvSource)
    rejects = Rejects(source, write("b.csv", b""))
    rejects.add({row.line: [row.problem] for row in source.rows() if row.problem and row.text})
    rejects.write()
    if lines:
        again = open_source(rejects.path, delimiter)
        assert [(int(row.came_from), row.problem is None) for row in again.rows()] == [
            (line, False) for line in lines
        ]


@given(damaged())
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=60,
    deadline=None,
)
def test_the_summary_of_a_damaged_file_counts_every_row_once(
    peer: Peer, write: Write, run: Run, tmp_path: Path, file: tuple[str, bytes]
) -> None:
    delimiter, content = file
    peer.users.clear()
    name = "people.tsv" if delimiter == "\t" else "people.csv"
    write(name, content)
    ran = run(name, mapping=MAPPING.format(delimiter=f"delimiter = {json.dumps(delimiter)}"))
    counts: dict[str, Any] = {
        name: int(count) for name, count in re.findall(r"^([a-z ]+?) +([0-9]+) *$", ran.output, re.MULTILINE)
    }
    assert ran.errors == ""
    assert counts["lines"] == len(lines_in(content))
    taken = counts["created"] + counts["updated"] + counts["unchanged"]
    assert counts["rows"] == taken + counts["rejected rows"]
    rejects = tmp_path / name.replace(".", ".rejects.")
    found = list(open_source(rejects, delimiter).rows()) if rejects.exists() else []
    assert len(found) == counts["rejected rows"]
