"""Complete imports against a test server."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from clients.importer import progress
from clients.importer.options import ImportOptions
from clients.importer.run import run_import
from tests.clients.importer.conftest import HEADER, MAPPING, Ran, people
from tests.clients.importer.peer import KEY, Answer, Drop, Peer

Write = Callable[..., Path]
Run = Callable[..., Ran]
UNKEYED = MAPPING.replace('key = "user_id"\n', "")


def numbers(ran: Ran) -> list[str]:
    """Counts of the summary: rows, profiles, created, updated, unchanged, rejected rows."""
    names = "rows|profiles|created|updated|unchanged|rejected rows"
    return re.findall(rf"^(?:{names}) +([0-9,]+) *$", ran.output, re.MULTILINE)


def test_rows_become_profiles(peer: Peer, write: Write, run: Run) -> None:
    write("people.csv", HEADER + "1,ada@example.com,Ada,2026-01-05T10:00:00Z,DE\n")
    ran = run(shift_days=2)
    assert (ran.code, ran.errors) == (0, "")
    assert numbers(ran) == ["1", "1", "1", "0", "0", "0"]
    assert peer.users["u-1"] == {
        "user_id": "u-1",
        "email": "ada@example.com",
        "name": "Ada",
        "signup_date": "2026-01-07T10:00:00Z",
        "account_status": "active",
        "lifecycle_stage": "onboarding",
        "demographics": {"country": "DE"},
        "consents": {"data_collection": True},
    }


def test_a_second_run_changes_nothing(peer: Peer, write: Write, run: Run) -> None:
    write("people.csv", people(25))
    assert numbers(run()) == ["25", "25", "25", "0", "0", "0"]
    assert numbers(run()) == ["25", "25", "0", "0", "25", "0"]
    write("people.csv", people(25).replace("Person 7", "Person VII"))
    assert numbers(run()) == ["25", "25", "0", "1", "24", "0"]


def test_batches_have_the_requested_size_and_a_few_run_at_once(peer: Peer, write: Write, run: Run) -> None:
    peer.slow = 0.02
    write("people.csv", people(95))
    assert run(batch_size=10).code == 0
    assert sorted(len(request["users"]) for request in peer.requests) == [5] + [10] * 9
    assert 1 < peer.most_at_once <= 3
    assert len(peer.users) == 95


def test_rows_of_one_person_are_applied_in_the_files_order(peer: Peer, write: Write, run: Run) -> None:
    peer.slow = 0.005
    rows = (f"{n % 3},p@example.com,Name {n},2026-01-05T10:00:00Z,DE\n" for n in range(30))
    write("people.csv", HEADER + "".join(rows))
    assert run(mapping=UNKEYED, batch_size=1).code == 0
    assert len(peer.requests) == 30
    assert {user["name"] for user in peer.users.values()} == {"Name 27", "Name 28", "Name 29"}


def test_ndjson_is_read_by_dotted_paths(peer: Peer, write: Write, run: Run) -> None:
    mapping = MAPPING.replace("{id}", "{who.id}")
    row = {"who": {"id": 7}, "email": "a@example.com", "name": "Ada", "joined": "2026-01-05T10:00:00Z"}
    write("people.ndjson", json.dumps(row) + "\n")
    ran = run("people.ndjson", mapping=mapping)
    assert ran.code == 0
    assert "demographics" not in peer.users["u-7"]
    assert "No row had 'country', which the mapping uses." in ran.output


def test_rejected_rows_go_to_a_file_next_to_the_input(peer: Peer, write: Write, run: Run, tmp_path: Path) -> None:
    peer.refuse = {"u-2": "invalid_email"}
    write("people.csv", people(3) + "4,only two\n5,p5@example.com,Person 5,yesterday,DE\n")
    ran = run()
    assert ran.code == 1
    assert numbers(ran) == ["5", "3", "2", "0", "0", "3"]
    assert "people.rejects.csv" in ran.output
    with (tmp_path / "people.rejects.csv").open(newline="") as file:
        rejects = list(csv.DictReader(file))
    assert [(row["id"], row["line"], row["pointer"], row["code"]) for row in rejects] == [
        ("2", "3", "/email", "invalid_email"),
        ("4", "5", "", "column_count"),
        ("5", "6", "/signup_date", "not_a_timestamp"),
    ]
    assert rejects[0]["email"] == "p2@example.com"


def test_a_corrected_rejects_file_can_be_imported(peer: Peer, write: Write, run: Run, tmp_path: Path) -> None:
    write("people.csv", people(3).replace("2026-01-05T10:00:00Z", "never", 1))
    assert run().code == 1
    rejects = tmp_path / "people.rejects.csv"
    rejects.write_text(rejects.read_text().replace("never", "2026-01-05T10:00:00Z"))
    assert run("people.rejects.csv").code == 0
    assert len(peer.users) == 3
    write("people.csv", people(3))
    assert run().code == 0
    assert not rejects.exists()


def test_rejected_json_lines_keep_their_text(peer: Peer, write: Write, run: Run, tmp_path: Path) -> None:
    write("people.ndjson", '{"id": 1.50, "line": "mine"}\n{"id"\n{}\n')
    assert run("people.ndjson").code == 1
    first, second, third = (tmp_path / "people.rejects.ndjson").read_text().splitlines()
    assert first.startswith('{"id": 1.50, "line": "mine", "reject_line": 1, "pointer": "/email"')
    assert json.loads(second) | {"message": ""} == {
        "row": '{"id"',
        "line": 2,
        "pointer": "",
        "code": "malformed_json",
        "message": "",
    }
    assert json.loads(third)["code"] == "required"


def test_a_dry_run_sends_nothing_and_shows_an_example(peer: Peer, write: Write, run: Run) -> None:
    write("people.csv", people(3) + "4,only two\n")
    ran = run(dry_run=True, url="", key="")
    assert ran.code == 1
    assert peer.times == []
    assert '"user_id": "u-1"' in ran.output


@pytest.mark.parametrize("trouble", [Answer(503), Answer(502), Answer(504), Drop()])
def test_failed_requests_are_repeated(peer: Peer, write: Write, run: Run, trouble: Answer | Drop) -> None:
    peer.unusual.extend([trouble] * 3)
    write("people.csv", people(5))
    ran = run()
    assert (ran.code, len(peer.users)) == (0, 5)
    assert "The API doesn't answer" in ran.output


def test_a_lost_response_is_counted_once(peer: Peer, write: Write, run: Run) -> None:
    peer.lose_answers = 2
    write("people.csv", people(5))
    assert numbers(run()) == ["5", "5", "5", "0", "0", "0"]
    assert len(peer.requests) == 1


def test_an_api_that_stays_unavailable_stops_the_import(peer: Peer, write: Write, run: Run) -> None:
    peer.unusual.extend([Answer(503)] * 4)
    write("people.csv", people(5))
    ran = run()
    assert ran.code == 2
    assert "doesn't answer (status 503, 4 attempts)" in ran.errors
    assert "run the import again to continue" in ran.errors


def test_the_import_waits_for_the_rate_limit_as_long_as_the_api_asks(peer: Peer, write: Write, run: Run) -> None:
    peer.unusual.append(Answer(429, {"code": "rate_limited"}, {"Retry-After": "1"}))
    write("people.csv", people(30))
    ran = run(batch_size=10)
    assert (ran.code, len(peer.users)) == (0, 30)
    held = max(later - earlier for earlier, later in zip(peer.times, peer.times[1:], strict=False))
    assert 0.9 < held < 3
    assert "continuing in 1 s" in ran.output


@pytest.mark.slow
def test_the_import_waits_until_the_date_that_the_api_names(peer: Peer, write: Write, run: Run) -> None:
    at = datetime.now(UTC) + timedelta(seconds=3)
    headers = {"Retry-After": f"{at:%a, %d %b %Y %H:%M:%S} GMT"}
    peer.unusual.append(Answer(429, {"code": "rate_limited"}, headers))
    write("people.csv", people(20))
    ran = run(batch_size=10)
    assert (ran.code, len(peer.users)) == (0, 20)
    held = max(later - earlier for earlier, later in zip(peer.times, peer.times[1:], strict=False))
    assert 1.4 < held < 5


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Answer(401), "doesn't know this key"),
        (Answer(403, {"code": "forbidden"}), "may not import profiles"),
        (
            Answer(400, {"detail": "The body is not valid JSON."}),
            "with 400: The body is not valid JSON. (request r-1)",
        ),
        (Answer(404), "with 404: no reason given"),
        (Answer(200, {"hello": "world"}), "is the address right?"),
    ],
)
def test_a_rejected_request_stops_the_import_with_one_sentence(
    peer: Peer, write: Write, run: Run, answer: Answer, sentence: str
) -> None:
    peer.unusual.extend([answer] * 3)
    write("people.csv", people(5))
    ran = run()
    assert ran.code == 2
    assert sentence in ran.errors
    assert len(ran.errors.splitlines()) == 1
    assert len(peer.times) == 1


def counted(ran: Ran) -> dict[str, int]:
    """All counts of the summary by name."""
    found = re.findall(r"^([a-z][a-z ]*?) +([0-9]+) *$", ran.output, re.MULTILINE)
    return {name: int(count) for name, count in found}


def test_the_summary_of_a_stopped_import_counts_the_rows_without_a_result(
    peer: Peer, write: Write, run: Run
) -> None:
    peer.slow = 0.1
    peer.unusual.extend([Answer(200, {"hello": "world"})])
    write("people.csv", people(20) + "21,p@example.com\n")
    ran = run(batch_size=7, mapping=UNKEYED)
    counts = counted(ran)
    assert (ran.code, counts["rows"], counts["rejected rows"]) == (2, 21, 1)
    assert counts["rows without a result"] == 20 - counts["created"] > 0


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_summary_counts_rows_that_others_of_the_same_profile_complete(
    peer: Peer, write: Write, run: Run, dry_run: bool
) -> None:
    peer.refuse = {"u-2": "no"}
    write("people.csv", people(3) + people(2).partition("\n")[2] + "9,p@example.com\n")
    counts = counted(run(dry_run=dry_run))
    taken = counts["profiles"] if dry_run else counts["created"]
    assert counts["rows"] == 6 == taken + counts["merged rows"] + counts["rejected rows"]
    assert counts["merged rows"] == (2 if dry_run else 1)


def test_a_batch_that_is_too_large_is_halved(peer: Peer, write: Write, run: Run) -> None:
    peer.max_bytes = 1200
    write("people.csv", people(20) + f"21,p@example.com,{'x' * 2000},2026-01-05T10:00:00Z,DE\n")
    ran = run()
    assert (ran.code, len(peer.users)) == (1, 20)
    assert numbers(ran)[-1] == "1"


def test_items_that_make_a_request_invalid_are_removed_from_it(peer: Peer, write: Write, run: Run) -> None:
    row = {"id": "9", "email": "a@example.com", "name": "A\x00B", "joined": "2026-01-05T10:00:00Z"}
    good = {**row, "id": "8", "name": "Ada"}
    write("people.ndjson", json.dumps(row) + "\n" + json.dumps(good) + "\n")
    ran = run("people.ndjson")
    assert (ran.code, list(peer.users)) == (1, ["u-8"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"url": "127.0.0.1"}, "--url must be"),
        ({"url": "http://:x/"}, "--url must be"),
        ({"key": ""}, "An API key is needed"),
        ({"key": "ключ"}, "An API key is needed"),
        ({"batch_size": 0}, "--batch-size"),
        ({"url": "http://127.0.0.1:9"}, "doesn't answer (ConnectError, 4 attempts)"),
    ],
)
def test_invalid_options_stop_with_one_sentence(
    write: Write, run: Run, changes: dict[str, object], sentence: str
) -> None:
    write("people.csv", people(1))
    ran = run(**changes)
    assert ran.code == 2
    assert sentence in ran.errors


def test_a_missing_file_or_column_stops_with_one_sentence(write: Write, run: Run) -> None:
    assert "can't be read: No such file" in run("none.csv").errors
    write("people.csv", "id,mail\n")
    ran = run()
    assert ran.code == 2
    assert "line 6: 'email' uses the column 'email'" in ran.errors


def test_a_terminal_gets_a_bar(peer: Peer, write: Write) -> None:
    output = Console(file=io.StringIO(), width=120, force_terminal=True)
    file, mapping = write("people.csv", people(30)), write("mapping.toml", MAPPING)
    assert run_import(ImportOptions(file, mapping, peer.url, KEY), output=output) == 0
    assert isinstance(output.file, io.StringIO)
    assert "30/30 rows" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.file.getvalue())


def test_a_long_run_prints_its_progress(
    monkeypatch: pytest.MonkeyPatch, peer: Peer, write: Write, run: Run
) -> None:
    monkeypatch.setattr(progress, "_PRINT_INTERVAL_SECONDS", 0.0)
    write("people.csv", people(30))
    assert "30 of 30 rows" in run().output
