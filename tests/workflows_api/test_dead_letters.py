"""`/dead-letters` over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client

from models.schemas.dead_letters import ReplayFilter
from models.vocabulary import Role
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from testing.mail import MailServer
from testing.people import Customer
from tests.support.http import Clients, assert_problem, field_errors
from tests.workflows_api.conftest import SHORT, execute, until
from worker import build_worker


@pytest.fixture
async def rejecting(
    settings: Settings, temporal: Client, database: Database, cipher: Cipher, delivering: None
) -> AsyncIterator[MailServer]:
    """A worker whose mail server rejects every recipient, until a test changes that."""
    async with MailServer() as mail:
        mail.refuse_recipients = "450 ada@example.com is away"
        mailing = settings.model_copy(update={"smtp_url": mail.url})
        async with build_worker(temporal, mailing, database, cipher):
            yield mail


async def _failed(
    api: Clients, customer: Customer, parameters: Mapping[str, str] = SHORT
) -> tuple[str, dict[str, Any]]:
    """The path of a failed instance, and its dead letter."""
    path = (await execute(api, customer, max_attempts=1, parameters=parameters)).headers["location"]
    instance = await until(api, path, status="failed")
    found = (await api.admin.get(f"/dead-letters?instance_id={instance['instance_id']}")).json()["data"]
    assert len(found) == 1
    return path, found[0]


async def test_an_export_finds_each_value_under_its_declared_row(
    api: Clients, customer: Customer, rejecting: MailServer
) -> None:
    """The export builds the row of each value from the declarations, not as the code that encrypted it."""
    await _failed(api, customer)
    exported = (await api.admin.get(f"/users/{customer.user_id}/export")).json()
    [instance], [letter], [message] = exported["instances"], exported["dead_letters"], exported["messages"]
    assert message["recipient"] == customer.email
    assert customer.name in message["subject"]
    assert instance["parameters"]
    assert "ada@example.com" in instance["error"]["error_message"]
    assert letter["error"]["error_type"] == instance["error"]["error_type"]
    assert {each["step"]: bool(each["error_message"]) for each in exported["attempts"]}["send_welcome"]
    assert all(each["result"] is not None for each in exported["steps"])


async def test_a_failed_step_opens_a_dead_letter_that_only_admins_read_in_full(
    api: Clients, customer: Customer, rejecting: MailServer, database: Database
) -> None:
    path, letter = await _failed(api, customer)
    assert letter["status"] == "open"
    assert letter["failed_step"] == "send_welcome"
    assert (letter["workflow_id"], letter["user_id"], letter["attempts"]) == ("onboarding", customer.user_id, 1)
    assert path.endswith(letter["instance_id"])
    assert letter["error"]["error_type"] == "SMTPRecipientRefused"
    assert "ada@example.com" in letter["error"]["error_message"]
    assert letter["error"]["stack_trace"]
    url = f"/dead-letters/{letter['id']}"
    assert (await api.admin.get(url)).json() == letter
    masked = (await api.operator.get(url)).json()
    assert (masked["error"]["error_message"], masked["error"]["stack_trace"]) == ("***", "***")
    assert masked["error"]["error_type"] == letter["error"]["error_type"]
    assert_problem(await api.integrator.get(url), 403, "forbidden")
    async with database.connection() as connection:
        assert b"ada@example.com" not in await connection.fetchval("SELECT error FROM dead_letters")


async def test_a_replay_completes_the_instance(api: Clients, customer: Customer, rejecting: MailServer) -> None:
    path, letter = await _failed(api, customer)
    url = f"/dead-letters/{letter['id']}"
    before = (await api.admin.get(path)).json()
    assert_problem(await api.analyst.post(f"{url}/replay"), 403, "forbidden")

    again = await api.operator.post(f"{url}/replay")
    assert (again.status_code, again.json()["status"]) == (202, "replaying")
    assert again.headers["location"] == path
    second = await _settled(api, letter["id"], "open")
    assert second["attempts"] == 2
    assert second["created_at"] == letter["created_at"]
    assert second["updated_at"] > letter["updated_at"]

    rejecting.refuse_recipients = None
    assert (await api.operator.post(f"{url}/replay")).status_code == 202
    done = await until(api, path, status="completed")
    assert done["error"] is None
    assert done["start_time"] == before["start_time"]
    assert done["temporal"]["run_id"] != before["temporal"]["run_id"]
    assert [each["attempt"] for each in done["retries"] if each["step"] == "send_welcome"] == [1, 2, 3]
    assert [message["Subject"].split(",")[0] for message in rejecting.to(customer.email)] == [
        "Welcome",
        customer.name,
    ]
    assert (await api.admin.get(url)).json()["status"] == "replayed"
    assert_problem(await api.operator.post(f"{url}/replay"), 409, "already_settled")
    assert_problem(await api.operator.post(f"{url}/discard"), 409, "already_settled")


async def _settled(api: Clients, letter_id: str, status: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            letter: dict[str, Any] = (await api.admin.get(f"/dead-letters/{letter_id}")).json()
            if letter["status"] == status:
                return letter
            await asyncio.sleep(0.02)


async def test_a_replay_sends_to_the_corrected_address(
    api: Clients, customer: Customer, rejecting: MailServer
) -> None:
    rejecting.refuse_recipients = "550 no such mailbox"
    path, letter = await _failed(api, customer)
    assert letter["error"]["error_type"] == "MessageRejectedError"
    address = f"corrected-{customer.email}"
    assert (await api.admin.patch(f"/users/{customer.user_id}", json={"email": address})).status_code == 200
    rejecting.refuse_recipients = None
    await api.operator.post(f"/dead-letters/{letter['id']}/replay")
    await until(api, path, status="completed")
    assert len(rejecting.to(address)) == 2


async def test_one_of_many_concurrent_replays_is_accepted(
    api: Clients, customer: Customer, rejecting: MailServer
) -> None:
    _, letter = await _failed(api, customer)
    rejecting.refuse_recipients = None
    answers = await asyncio.gather(*(api.operator.post(f"/dead-letters/{letter['id']}/replay") for _ in range(8)))
    assert len([answer for answer in answers if answer.status_code == 202]) == 1
    for answer in answers:
        if answer.status_code != 202:
            assert answer.json()["code"] in ("already_replaying", "already_settled")
    assert (await _settled(api, letter["id"], "replayed"))["attempts"] == 1


async def test_a_discarded_dead_letter_is_settled_and_its_instance_stays_failed(
    api: Clients, customer: Customer, rejecting: MailServer
) -> None:
    path, letter = await _failed(api, customer)
    discarded = await api.operator.post(f"/dead-letters/{letter['id']}/discard")
    assert (discarded.status_code, discarded.json()["status"]) == (200, "discarded")
    assert_problem(await api.operator.post(f"/dead-letters/{letter['id']}/replay"), 409, "already_settled")
    assert (await api.admin.get(path)).json()["status"] == "failed"
    assert (await api.admin.get("/dead-letters?status=open")).json()["data"] == []
    assert len((await api.admin.get("/dead-letters?status=discarded")).json()["data"]) == 1


async def test_the_list_has_every_filter_of_a_bulk_replay(
    api: Clients, customer: Customer, rejecting: MailServer
) -> None:
    _, letter = await _failed(api, customer)
    later = datetime.fromisoformat(letter["created_at"]) + timedelta(microseconds=1)
    filters = {
        "status": ("open", "discarded"),
        "workflow_id": ("onboarding", "win_back"),
        "instance_id": (letter["instance_id"], "i-other"),
        "user_id": (letter["user_id"], "u-other"),
        "failed_step": ("send_welcome", "send_nudge"),
        "error_type": (letter["error"]["error_type"], "SomethingElse"),
        "created_after": (letter["created_at"], later.isoformat()),
        "created_before": (later.isoformat(), letter["created_at"]),
    }
    assert filters.keys() == ReplayFilter.model_fields.keys() - {"limit", "per_second", "dry_run"}
    for name, (hit, miss) in filters.items():
        for value, found in ((hit, [letter["id"]]), (miss, [])):
            answer = await api.operator.get("/dead-letters", params={name: value})
            assert [each["id"] for each in answer.json()["data"]] == found, (name, answer.text)
    assert (await api.admin.get("/dead-letters", params={name: hit for name, (hit, _) in filters.items()})).json()[
        "data"
    ] == [letter]


async def test_a_filter_replays_many_dead_letters_at_a_pace(
    api: Clients, customer: Customer, rejecting: MailServer, database: Database, cipher: Cipher
) -> None:
    other = await Customer.new(database, cipher)
    paths = [(await _failed(api, customer))[0] for _ in range(3)]
    untouched, _ = await _failed(api, other)
    rejecting.refuse_recipients = None
    wanted = {"user_id": customer.user_id, "workflow_id": "onboarding", "per_second": 20}
    counted = await api.operator.post("/dead-letters/replay", json={**wanted, "dry_run": True})
    expected = {"accepted": 3, "refused": [], "per_second": 20.0, "remaining": False}
    assert (counted.status_code, counted.json()) == (200, {"dry_run": True, **expected})
    assert len((await api.admin.get("/dead-letters?status=open")).json()["data"]) == 4
    answer = await api.operator.post("/dead-letters/replay", json=wanted)
    assert answer.status_code == 202
    assert answer.json() == {"dry_run": False, **expected}
    for path in paths:
        await until(api, path, status="completed")
    assert (await api.admin.get(untouched)).json()["status"] == "failed"
    none = await api.operator.post("/dead-letters/replay", json={"error_type": "SomethingElse"})
    assert none.json()["accepted"] == 0
    wrong = await api.operator.post("/dead-letters/replay", json={"workflow": "onboarding", "per_second": 0})
    assert field_errors(wrong) == {("/workflow", "unknown_field"), ("/per_second", "too_small")}
    for pace, code in ((1e-300, "too_small"), (0.009, "too_small"), (100.1, "too_large")):
        wrong = await api.operator.post("/dead-letters/replay", json={"per_second": pace})
        assert field_errors(wrong) == {("/per_second", code)}
    wrong = await api.operator.post("/dead-letters/replay", json={"status": "discarded", "per_second": "slowly"})
    assert field_errors(wrong) == {("/status", "invalid_choice"), ("/per_second", "invalid_type")}
    assert wrong.json()["errors"][0]["message"] == "must be one of 'open'"
    assert (await api.operator.post("/dead-letters/replay", json={"status": "open", "per_second": 5})).json()[
        "accepted"
    ] == 1
    assert_problem(await api.analyst.post("/dead-letters/replay", json={}), 403, "forbidden")


async def _replayed_in_two_seconds(api: Clients, customer: Customer, rejecting: MailServer) -> tuple[str, str]:
    """The paths of an instance that Temporal resets two seconds after its replay was requested, and of its dead
    letter."""
    await _failed(api, customer)
    path, letter = await _failed(api, customer, parameters={})
    rejecting.refuse_recipients = None
    answer = await api.operator.post("/dead-letters/replay", json={"per_second": 0.5})
    assert answer.json()["accepted"] == 2
    return path, f"/dead-letters/{letter['id']}"


async def test_a_pause_that_overtakes_the_replay_takes_effect(
    api: Clients, customer: Customer, rejecting: MailServer
) -> None:
    path, _ = await _replayed_in_two_seconds(api, customer, rejecting)
    paused = await api.operator.post(f"{path}/pause")
    assert (paused.status_code, paused.json()["status"]) == (200, "paused")
    assert (await api.operator.post(f"{path}/resume")).status_code == 200
    await until(api, path, current_step="wait_for_first_activity")
    assert (await api.operator.delete(path)).status_code == 202


async def test_a_cancellation_that_overtakes_the_replay_cancels_the_instance(
    api: Clients, customer: Customer, rejecting: MailServer
) -> None:
    path, letter = await _replayed_in_two_seconds(api, customer, rejecting)
    assert (await api.operator.delete(path)).status_code == 202
    ended = await until(api, path, status="cancelled")
    assert ended["end_time"]
    assert (await api.admin.get(letter)).json()["status"] == "discarded"
    assert_problem(await api.operator.delete(path), 409, "already_finished")


async def test_a_rejected_replay_says_why(
    api: Clients, customer: Customer, rejecting: MailServer, database: Database
) -> None:
    _, letter = await _failed(api, customer)
    url = f"/dead-letters/{letter['id']}"
    for method, path in (("GET", ""), ("POST", "/replay"), ("POST", "/discard")):
        answer = await api.admin.request(method, f"/dead-letters/unknown{path}")
        assert_problem(answer, 404, "dead_letter_not_found")
    async with database.connection() as connection:
        await connection.execute("UPDATE instances SET purpose = 'marketing'")
        assert_problem(await api.operator.post(f"{url}/replay"), 403, "consent_required")
        for dry_run in (True, False):
            bulk = (await api.operator.post("/dead-letters/replay", json={"dry_run": dry_run})).json()
            assert (bulk["accepted"], bulk["refused"]) == (0, [{"id": letter["id"], "code": "consent_required"}])
        await connection.execute("UPDATE users SET account_status = 'suspended'")
        assert_problem(await api.operator.post(f"{url}/replay"), 409, "account_suspended")
        await connection.execute("UPDATE instances SET purpose = NULL")
        await connection.execute("UPDATE users SET account_status = 'closed'")
        assert_problem(await api.operator.post(f"{url}/replay"), 409, "account_closed")
        bulk = (await api.operator.post("/dead-letters/replay", json={})).json()
        assert (bulk["accepted"], bulk["refused"]) == (0, [{"id": letter["id"], "code": "account_closed"}])
        await connection.execute("UPDATE users SET account_status = 'active'")
    assert (await api.admin.get(url)).json()["status"] == "open"
    for role in (Role.OPERATOR, Role.ANALYST):
        assert (await api.of(role).get("/dead-letters?status=open&limit=1")).json()["pagination"]["limit"] == 1
    assert (await api.admin.get("/dead-letters?status=lost")).status_code == 422
