"""Files as other programs write them: time zones, separators, and cells with JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.__main__ import app
from clients.importer.sources import open_source
from tests.clients.importer.conftest import Ran
from tests.clients.importer.peer import Peer
from tests.clients.importer.test_import import numbers

Write = Callable[..., Path]
Run = Callable[..., Ran]

MAPPING = """\
kind = "profiles"

[fields]
user_id = "{id}"
email = "{id}@example.com"
name = "{name}"
signup_date = "{joined}"
account_status = "active"
lifecycle_stage = "active"
"""
JOINED = 'signup_date = { from = "{joined}", type = "timestamp", format = "%d.%m.%Y %H:%M" }'
LOCAL = MAPPING.replace('signup_date = "{joined}"', JOINED)
ROW = "a1,Jürgen Łoś,2026-01-05T10:00:00Z\n"


def named(**options: str) -> str:
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items()) + MAPPING


@pytest.mark.parametrize(
    ("mapping", "options", "sentence"),
    [
        (
            MAPPING,
            {"encoding": "rot13"},
            "--encoding must be the name of an encoding, such as utf-8, windows-1252",
        ),
        (MAPPING, {"encoding": ""}, "--encoding must be the name of an encoding"),
        (MAPPING, {"timezone": ""}, "--timezone must be the name of an IANA time zone"),
        (
            MAPPING,
            {"timezone": "Berlin"},
            "--timezone must be the name of an IANA time zone, such as Europe/Berlin",
        ),
        (MAPPING, {"timezone": "../etc"}, "--timezone must be the name of an IANA time zone"),
        (named(encoding="utf8x"), {}, "line 1: 'encoding' must be the name of an encoding"),
        (named(timezone="CET/CEST"), {}, "line 1: 'timezone' must be the name of an IANA time zone"),
        ("encoding = 8\n" + MAPPING, {}, "line 1: 'encoding' must be the name of an encoding"),
        ("timezone = 1\n" + MAPPING, {}, "line 1: 'timezone' must be the name of an IANA time zone"),
        (named(delimiter='"'), {}, "line 1: 'delimiter' must be a single character, and no quote"),
        (LOCAL.replace("%H:%M", "%H:%M %Z"), {}, "has '%Z' in its 'format'"),
    ],
)
def test_an_unknown_encoding_or_zone_stops_with_one_sentence(
    write: Write, run: Run, mapping: str, options: dict[str, str], sentence: str
) -> None:
    write("people.csv", "id,name,joined\n" + ROW)
    ran = run(mapping=mapping, **options)
    assert (ran.code, len(ran.errors.splitlines())) == (2, 1)
    assert sentence in ran.errors


@pytest.mark.parametrize(
    ("zone", "text", "utc"),
    [
        ("Europe/Berlin", "05.01.2026 10:00", "2026-01-05T09:00:00Z"),
        ("Europe/Berlin", "05.07.2026 10:00", "2026-07-05T08:00:00Z"),
        ("Europe/Berlin", "25.10.2026 02:30", "2026-10-25T00:30:00Z"),  # twice that day: the first
        ("Europe/Berlin", "29.03.2026 02:30", "2026-03-29T01:30:00Z"),  # doesn't exist: an hour later
        ("America/New_York", "05.01.2026 23:00", "2026-01-06T04:00:00Z"),
        ("UTC", "05.01.2026 10:00", "2026-01-05T10:00:00Z"),
    ],
)
@pytest.mark.parametrize("place", ["option", "mapping"])
def test_times_without_an_offset_are_of_the_named_zone(
    peer: Peer, write: Write, run: Run, zone: str, text: str, utc: str, place: str
) -> None:
    write("people.csv", f"id,name,joined\na1,Ann,{text}\n")
    if place == "option":
        ran = run(mapping='timezone = "Asia/Tokyo"\n' + LOCAL, timezone=zone)
    else:
        ran = run(mapping=f'timezone = "{zone}"\n' + LOCAL)
    assert ran.code == 0
    assert peer.users["a1"]["signup_date"] == utc
    assert "taken as UTC" not in ran.output


@pytest.mark.parametrize("field", ['"{joined}"', '{ from = "{joined}", type = "timestamp" }'])
def test_iso_times_without_an_offset_are_of_the_named_zone_and_others_keep_theirs(
    peer: Peer, write: Write, run: Run, field: str
) -> None:
    times = ["2026-07-05T10:00:00", "2026-07-05 10:00", "2026-07-05T10:00:00Z", "2026-07-05T10:00:00+09:00"]
    rows = "".join(f"a{number},Ann,{time}\n" for number, time in enumerate(times))
    write("people.csv", "id,name,joined\n" + rows)
    mapping = MAPPING.replace('"{joined}"', field)
    assert run(mapping=mapping, timezone="Europe/Berlin").code == 0
    assert [peer.users[f"a{number}"]["signup_date"] for number in range(4)] == [
        "2026-07-05T08:00:00Z",
        "2026-07-05T08:00:00Z",
        "2026-07-05T10:00:00Z",
        "2026-07-05T01:00:00Z",
    ]


def test_the_summary_counts_the_times_that_were_taken_as_utc(peer: Peer, write: Write, run: Run) -> None:
    write("people.csv", "id,name,joined\na1,Ann,05.01.2026 10:00\na2,Ben,06.01.2026 10:00\n")
    ran = run(mapping=LOCAL)
    assert ran.code == 0
    assert peer.users["a1"]["signup_date"] == "2026-01-05T10:00:00Z"
    assert "2 times without an offset were taken as UTC. Name their time zone with --timezone" in ran.output


def test_without_a_zone_an_iso_time_without_an_offset_is_rejected_with_the_remedy(
    peer: Peer, write: Write, run: Run, tmp_path: Path
) -> None:
    write("people.csv", "id,name,joined\na1,Ann,2026-01-05T10:00:00\n")
    mapping = MAPPING.replace('"{joined}"', '{ from = "{joined}", type = "timestamp" }')
    assert run(mapping=mapping).code == 1
    assert "name its zone with --timezone" in (tmp_path / "people.rejects.csv").read_text()


@pytest.mark.parametrize("text", ["01.01.0001 00:00", "31.12.9999 23:59"])
def test_a_local_time_at_the_ends_of_the_calendar_is_rejected(
    peer: Peer, write: Write, run: Run, text: str
) -> None:
    write("people.csv", f"id,name,joined\na1,Ann,{text}\n")
    for zone in ("Asia/Tokyo", "America/New_York", None):
        assert run(mapping=LOCAL, timezone=zone).code == 1


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;", "\ufeffsep=;", "sep=; ", "sep=;;;"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_excels_first_line_names_the_separator(
    peer: Peer, write: Write, run: Run, tmp_path: Path, line: str, end: str
) -> None:
    peer.refuse = {"a2": "no"}
    date = "2026-01-05T10:00:00Z"
    write("people.csv", end.join([line, "id;name;joined", f'a1;"Ann; B";{date}', f"a2;Ben;{date}"]))
    ran = run(mapping=MAPPING)
    assert numbers(ran) == ["2", "2", "1", "0", "0", "1"]
    assert peer.users["a1"]["name"] == "Ann; B"
    rejects = tmp_path / "people.rejects.csv"
    with rejects.open(newline="") as file:
        assert next(file) == "sep=;\n"
        [row] = csv.DictReader(file, delimiter=";")
    assert (row["id"], row["line"]) == ("a2", "4")
    peer.refuse = {}
    assert run("people.rejects.csv", mapping=MAPPING).code == 0


def test_a_separator_line_counts_as_a_line(write: Write) -> None:
    source = open_source(write("a.csv", "sep=|\nid|name\n1|Ann\n"))
    assert [row.line for row in source.rows()] == [3]
    assert source.lines == {"header": 2, "rows": 1}


@pytest.mark.parametrize(
    ("header", "delimiter", "hint"),
    [
        ("id;name;joined", ",", "The header has one column. Is the separator ';'? Then write delimiter = \";\""),
        ("id\tname\tjoined", ",", "Is the separator '\\t'? Then write delimiter = \"\\t\" at the mapping's top."),
        ("id|name|joined", ",", "Is the separator '|'?"),
        ("id,name,joined", ";", "Is the separator ','?"),
        ('id;"name, first";name;joined', ",", "The header has 2 columns. Is the separator ';'?"),
    ],
)
def test_another_separator_is_suggested(write: Write, run: Run, header: str, delimiter: str, hint: str) -> None:
    write("people.csv", header + "\n")
    ran = run(mapping=named(delimiter=delimiter))
    assert ran.code == 2
    assert hint in ran.errors
    assert len(ran.errors.splitlines()) == 1


def test_an_error_shows_the_first_columns_of_many_and_no_rows(write: Write, run: Run) -> None:
    write("people.csv", ",".join(f"column {number}" for number in range(300)) + "\n")
    assert "it has: column 0, column 1," in (errors := run(mapping=MAPPING).errors)
    assert len(errors) < 500
    write("people.csv", f"id,name,joined\n{ROW * 5}".encode())
    assert len(run(mapping=MAPPING, encoding="utf-16-be").errors) < 300


def test_names_of_columns_are_shown_as_they_are(write: Write, run: Run) -> None:
    write("people.csv", "id:email:name[red]\n")
    assert "it has: id:email:name[red]." in run(mapping=MAPPING).errors


def test_no_separator_is_suggested_that_does_not_help(write: Write, run: Run) -> None:
    write("people.csv", "number,first name|last name,joined\n")
    assert "Is the separator" not in run(mapping=MAPPING).errors


def test_a_name_that_occurs_twice_matters_only_if_the_mapping_uses_it(peer: Peer, write: Write, run: Run) -> None:
    write("people.csv", "id,note,name,note,joined,,\na1,x,Ann,y,2026-01-05T10:00:00Z,,\n")
    assert run(mapping=MAPPING).code == 0
    for used in ("{note}", "{note?}", "{note.text}"):
        ran = run(mapping=MAPPING.replace("{name}", used))
        assert ran.code == 2
        assert "line 1: the column 'note' occurs twice, and the mapping uses it" in ran.errors


def test_lines_of_separators_and_spaces_are_empty_lines(peer: Peer, write: Write, run: Run) -> None:
    empty = [",,", ",", ",,,,,", "   ", " , ,\t", '"","",""', "\u00a0,,", ""]
    write("people.csv", "id,name,joined\n" + "\n".join(empty) + "\n" + ROW + ",,\n")
    ran = run(mapping=MAPPING)
    assert (ran.code, numbers(ran)) == (0, ["1", "1", "1", "0", "0", "0"])
    assert f"empty lines  {len(empty) + 1}" in " ".join(ran.output.split()).replace("lines ", "lines  ")


CELLS = MAPPING + 'demographics.city = "{extra.address.city}"\ndemographics.country = "{extra.country}"\n'
CELL = {"country": "DE", "address": {"city": "Köln"}, "zip": 50667}


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_a_cell_with_json_is_mapped_onto_several_fields(peer: Peer, write: Write, run: Run, suffix: str) -> None:
    row = {"id": "a1", "name": "Ann", "joined": "2026-01-05T10:00:00Z", "extra": json.dumps(CELL)}
    if suffix == "ndjson":
        write("people.ndjson", json.dumps(row))
    else:
        path = write("people.csv", "")
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([row.keys(), row.values()])
    ran = run(f"people.{suffix}", mapping=CELLS.replace("{name}", "{name} {extra.zip}"))
    assert (ran.code, ran.errors) == (0, "")
    assert peer.users["a1"]["demographics"] == {"city": "Köln", "country": "DE"}
    assert peer.users["a1"]["name"] == "Ann 50667"


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("", None),
        ("null", None),
        ("{}", None),
        ("[]", None),
        ('{""address"": 5}', None),
        ('{""address"": {""city"": [1]}}', "not_a_value"),
        ('{""country"": }', "malformed_json"),
        ("N/A", "malformed_json"),
        ("[" * 100_000, "malformed_json"),
    ],
)
def test_a_cell_without_the_part_leaves_it_out_and_one_that_is_no_json_is_rejected(
    peer: Peer, write: Write, run: Run, tmp_path: Path, cell: str, code: str | None
) -> None:
    write("people.csv", f'id,name,joined,extra\na1,Ann,2026-01-05T10:00:00Z,"{cell}"\n')
    ran = run(mapping=CELLS)
    assert ran.code == (1 if code else 0)
    if code is None:
        assert "demographics" not in peer.users["a1"]
    else:
        with (tmp_path / "people.rejects.csv").open(newline="") as file:
            csv.field_size_limit(1_000_000)
            [row] = csv.DictReader(file)
        assert code in row["code"]
        assert "/demographics/city" in row["pointer"]


def test_a_column_with_a_dot_in_its_name_comes_before_a_part_of_json(write: Write, run: Run, peer: Peer) -> None:
    write("people.csv", "id,name,joined,extra,extra.country\na1,Ann,2026-01-05T10:00:00Z,{},FR\n")
    assert run(mapping=CELLS).code == 0
    assert peer.users["a1"]["demographics"] == {"country": "FR"}


def test_a_part_of_a_missing_column_stops_the_import(write: Write, run: Run) -> None:
    write("people.csv", "id,name,joined\n")
    assert "uses the column 'extra.address.city', which the file doesn't have" in run(mapping=CELLS).errors


def test_the_options_are_documented() -> None:
    shown = CliRunner().invoke(app, ["import", "--help"], env={"COLUMNS": "200"}).output
    for words in ("--encoding", "windows-1252", "--timezone", "Europe/Berlin"):
        assert words in shown
