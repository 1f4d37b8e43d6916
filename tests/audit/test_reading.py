"""`GET /audit` and its head, and `perennial audit verify`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from runtime.settings import Settings
from tests.audit.log import Log, hours_ago
from tests.support.events import add_users
from tests.support.http import Clients, assert_problem, field_errors
from tests.support.processes import ROOT, environment_of


async def found(api: Clients, **filters: str) -> list[tuple[str, str | None]]:
    """(action, user) of the rows that a filter finds, newest first."""
    answer = await api.admin.get("/audit", params=filters)
    assert answer.status_code == 200, answer.text
    return [(entry["action"], entry["user_id"]) for entry in answer.json()["data"]]


async def test_the_log_is_filtered_by_user_actor_action_and_time(api: Clients, log: Log) -> None:
    await add_users(api.admin, ["u-1"])
    await log.superuser.execute("DELETE FROM audit_log")
    await log.add(hours_ago(5), "u-1", actor="key-1")
    await log.add(hours_ago(4), "u-2", actor="key-2", action="events.list")
    await log.add(hours_ago(3), None, actor="key-1", action="users.list", subjects=["u-1", "u-3"])  # type: ignore[arg-type]
    await log.add(hours_ago(2), "u-1", actor="key-2", subjects=["u-1"])
    assert await found(api, user_id="u-1") == [
        ("users.read", "u-1"),
        ("users.list", None),
        ("users.read", "u-1"),
    ]
    # The list before has shown u-3 as well.
    assert await found(api, user_id="u-3") == [("audit.list", "u-1"), ("users.list", None)]
    assert await found(api, actor="key-2") == [("users.read", "u-1"), ("events.list", "u-2")]
    assert await found(api, action="events.list") == [("events.list", "u-2")]
    assert await found(api, user_id="u-1", actor="key-1", action="users.read") == [("users.read", "u-1")]
    window = {"from": hours_ago(4).isoformat(), "to": hours_ago(3).isoformat()}
    assert await found(api, **window) == [("events.list", "u-2")]
    assert await found(api, actor="nobody") == []


async def test_the_log_is_paginated(api: Clients, log: Log) -> None:
    moment = hours_ago(3)
    numbers = [await log.add(moment, f"u-{number}", actor="key-1") for number in range(5)]
    seen, cursor = [], None
    while True:
        parameters = {"limit": "2", "actor": "key-1"} | ({"cursor": cursor} if cursor else {})
        page = (await api.admin.get("/audit", params=parameters)).json()
        seen += [int(entry["audit_id"]) for entry in page["data"]]
        cursor = page["pagination"]["next_cursor"]
        if cursor is None:
            break
    assert seen == numbers[::-1]
    assert field_errors(await api.admin.get("/audit", params={"cursor": "x"})) == {
        ("/query/cursor", "invalid_cursor")
    }


async def test_reading_the_log_is_recorded_with_the_users_it_showed(api: Clients, log: Log) -> None:
    await log.add(hours_ago(3), None, actor="key-1", subjects=["u-2", "u-3"])  # type: ignore[arg-type]
    await api.admin.get("/audit", params={"actor": "key-1"}, headers={"X-Request-Id": "r-1"})
    [row] = [row for row in await log.rows() if row["request_id"] == "r-1"]
    assert (row["action"], row["subjects"]) == ("audit.list", ["u-2", "u-3"])
    assert row["details"] == {"shown": 1, "filtered_by": "actor"}


async def test_a_list_cuts_long_subjects_and_a_single_row_has_all(api: Clients, log: Log) -> None:
    people = [f"u-{number:03}" for number in range(150)]
    number = await log.add(hours_ago(3), None, actor="key-1", subjects=people)  # type: ignore[arg-type]
    [entry] = (await api.admin.get("/audit", params={"actor": "key-1"})).json()["data"]
    assert (entry["subjects"], entry["subject_count"]) == (people[:100], 150)
    assert await found(api, user_id="u-149", actor="key-1") == [("users.read", None)]
    alone = (await api.admin.get(f"/audit/{number}")).json()
    assert alone == {**entry, "subjects": people}


@pytest.mark.parametrize("audit_id", ["0", "x", "-1", "9" * 30, "٣"])
async def test_an_unknown_entry_is_404(api: Clients, audit_id: str) -> None:
    assert_problem(await api.admin.get(f"/audit/{audit_id}"), 404, "audit_entry_not_found")


async def test_only_admins_read_the_log(api: Clients) -> None:
    for client in (api.operator, api.analyst, api.integrator):
        for path in ("/audit", "/audit/head", "/audit/1"):
            assert_problem(await client.get(path), 403, "forbidden")


async def test_the_head_is_that_of_the_newest_checkpoint(api: Clients, log: Log) -> None:
    nothing = {"hour": None, "head": None, "rows": None, "created_at": None}
    assert (await api.admin.get("/audit/head")).json() == nothing
    await log.fill(4)
    newest = (await log.checkpoint()).newest
    assert newest is not None
    head = (await api.admin.get("/audit/head")).json()
    assert head["head"] == newest.head
    await log.verify(bytes.fromhex(head["head"]))


async def perennial(settings: Settings, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cli",
        *arguments,
        cwd=ROOT,
        env=environment_of(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_verify_reports_an_intact_chain_and_names_a_changed_hour(log: Log, api_settings: Settings) -> None:
    await log.fill(4, 3)
    newest = (await log.checkpoint()).newest
    assert newest is not None
    code, out, err = await perennial(api_settings, "audit", "verify", "--head", newest.head)
    assert (code, err) == (0, "")
    assert "as it was checkpointed: 6 rows" in out
    assert newest.head in out
    await log.superuser.execute("UPDATE audit_log SET actor = 'nobody' WHERE occurred_at = $1", hours_ago(4))
    code, out, err = await perennial(api_settings, "audit", "verify")
    assert (code, out) == (3, "")
    assert f"{hours_ago(4):%Y-%m-%d %H:00} UTC" in err
    assert len(err.splitlines()) == 1


async def test_verify_reports_in_one_sentence_why_it_can_not_check(
    log: Log, api_settings: Settings, tmp_path: Path
) -> None:
    code, _, err = await perennial(api_settings, "audit", "verify", "--head", "xyz")
    assert (code, len(err.splitlines())) == (1, 1)
    missing = api_settings.model_copy(update={"key_file": tmp_path / "none.json"})
    code, _, err = await perennial(missing, "audit", "verify")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "none.json" in err


async def test_every_access_of_a_day_through_the_api_is_in_the_chain(api: Clients, log: Log) -> None:
    await add_users(api.admin, ["u-1"])
    await api.admin.get("/users/u-1")
    assert len(await log.rows()) == 2
    await log.superuser.execute("UPDATE audit_log SET occurred_at = occurred_at - interval '2 hours'")
    await log.checkpoint()
    assert (await log.verify()).rows == 2
