"""`POST /workflows/{id}/execute/batch`: instances of many users, stored at once and started one after another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from activities.outbox import Outbox
from activities.reconciler import Reconciler
from delivery.temporal import RunUnknownError, describe
from models.temporal.starting import Startable
from models.temporal.system import ReconcileRequest
from models.vocabulary import Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from store.connection import Connection
from store.instances import bulks
from store.instances.attempts import BegunStart
from testing.people import Customer
from tests.support.events import event
from tests.support.http import Clients, assert_problem, field_errors
from tests.workflows_api.conftest import SHORT
from worker import startables

MARKETED = (Purpose.DATA_COLLECTION, Purpose.MARKETING)


@pytest.fixture
async def people(database: Database, cipher: Cipher) -> list[Customer]:
    return [await Customer.new(database, cipher, *MARKETED) for _ in range(8)]


@pytest.fixture
async def deliver(
    settings: Settings, temporal: Client, system: Client, database: Database, cipher: Cipher
) -> AsyncIterator[Callable[[], None]]:
    """Starts the loop of the outbox's activity, with all entries due."""
    outbox = Outbox(database, cipher, temporal, system, settings.task_queue, startables())
    tasks: list[asyncio.Task[None]] = []

    async def loop() -> None:
        async with database.connection() as connection:
            await connection.execute("UPDATE temporal_outbox SET due_at = now()")
        await outbox.deliver_while(lambda: True)

    yield lambda: tasks.append(asyncio.create_task(loop()))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def execute(
    api: Clients, people: Sequence[Customer | str], workflow_id: str = "onboarding", **body: Any
) -> dict[str, Any]:
    """Execute a workflow for people, given as customers or ids, as an operator."""
    user_ids = [each if isinstance(each, str) else each.user_id for each in people]
    answer = await api.operator.post(
        f"/workflows/{workflow_id}/execute/batch", json={"user_ids": user_ids, **body}
    )
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    found["workflow_id"] = workflow_id
    assert answer.headers["location"] == f"/workflows/{workflow_id}/bulks/{found['bulk_id']}"
    return found


async def instances_of(
    api: Clients, bulk: dict[str, Any], workflow_id: str = "onboarding"
) -> list[dict[str, Any]]:
    listed = await api.admin.get(f"/workflows/{workflow_id}/instances", params={"bulk_id": bulk["bulk_id"]})
    found: list[dict[str, Any]] = listed.json()["data"]
    return found


async def until_ended(api: Clients, bulk: dict[str, Any], workflow_id: str = "onboarding") -> dict[str, int]:
    """The bulk's instances by status, once none runs."""
    async with asyncio.timeout(60):
        while True:
            view = (await api.analyst.get(f"/workflows/{workflow_id}/bulks/{bulk['bulk_id']}")).json()
            if not view["statuses"]["running"]:
                assert view["queued"] == 0
                return {status: number for status, number in view["statuses"].items() if number}
            await asyncio.sleep(0.05)


async def test_a_bulk_starts_an_instance_for_each_user(
    api: Clients, people: list[Customer], working: None, delivering: None
) -> None:
    bulk = await execute(api, people, parameters=SHORT, max_attempts=5, per_second=100)
    assert (bulk["started"], bulk["rejected"]) == (len(people), 0)
    assert [(each["index"], each["user_id"], each["status"], each["errors"]) for each in bulk["results"]] == [
        (index, each.user_id, "started", []) for index, each in enumerate(people)
    ]
    assert await until_ended(api, bulk) == {"completed": len(people)}
    ended = await instances_of(api, bulk)
    assert {each["instance_id"] for each in ended} == {each["instance_id"] for each in bulk["results"]}
    for each in ended:
        assert (each["bulk_id"], each["max_attempts"]) == (bulk["bulk_id"], 5)
        assert each["parameters"] == SHORT
        assert each["variables"] == {"nudged": True}
    path = f"/workflows/onboarding/bulks/{bulk['bulk_id']}"
    assert_problem(await api.operator.delete(path), 409, "already_finished")
    assert_problem(await api.operator.get("/workflows/win_back/bulks/" + bulk["bulk_id"]), 404, "bulk_not_found")


async def test_each_user_is_checked_and_a_rejected_one_does_not_affect_the_others(
    api: Clients, people: list[Customer], database: Database, cipher: Cipher
) -> None:
    asked, closed = people[0], people[1]
    without = await Customer.new(database, cipher, Purpose.DATA_COLLECTION)
    async with database.connection() as connection:
        await connection.execute("UPDATE users SET account_status = 'closed' WHERE user_id = $1", closed.user_id)
    listed: list[Customer | str] = [asked, closed, without, "u-nobody", "ada@example.com", asked]
    bulk = await execute(api, listed, "win_back")
    assert (bulk["started"], bulk["rejected"]) == (1, 5)
    assert [(each["status"], [error["code"] for error in each["errors"]]) for each in bulk["results"]] == [
        ("started", []),
        ("rejected", ["account_closed"]),
        ("rejected", ["consent_required"]),
        ("rejected", ["user_unknown"]),
        ("rejected", ["user_id_is_personal"]),
        ("rejected", ["duplicate_user"]),
    ]
    assert [each["errors"][0]["pointer"] for each in bulk["results"][1:]] == [
        f"/user_ids/{n}" for n in range(1, 6)
    ]
    assert bulk["results"][4]["user_id"] is None
    [row] = (await api.admin.get("/audit", params={"user_id": asked.user_id})).json()["data"]
    assert row["action"] == "workflows.execute"
    assert row["details"] == {
        "workflow_id": "win_back",
        "bulk_id": bulk["bulk_id"],
        "started": 1,
        "rejected": 5,
        "replayed": False,
        "masked": True,
    }


async def test_a_workflow_that_runs_once_is_rejected_for_a_user_who_has_it(
    api: Clients, people: list[Customer], owner: Connection
) -> None:
    first = await execute(api, people[:2])
    await owner.execute(
        "UPDATE instances SET status = 'completed', end_time = now() WHERE user_id = $1", people[1].user_id
    )
    second = await execute(api, people[:3])
    found = [
        (each["status"], each["instance_id"], [error["code"] for error in each["errors"]])
        for each in second["results"]
    ]
    assert found[:2] == [
        ("rejected", first["results"][0]["instance_id"], ["already_running"]),
        ("rejected", first["results"][1]["instance_id"], ["already_run"]),
    ]
    assert found[2][0] == "started"


async def test_a_workflow_with_a_key_is_rejected_for_a_user_whose_instance_with_that_key_runs(
    api: Clients, people: list[Customer]
) -> None:
    first = await execute(api, people[:1], "dunning", parameters={"invoice_id": "in-1"})
    same = await execute(api, people[:2], "dunning", parameters={"invoice_id": "in-1"})
    other = await execute(api, people[:1], "dunning", parameters={"invoice_id": "in-2"})
    [refused, started] = same["results"]
    assert (refused["instance_id"], [error["code"] for error in refused["errors"]]) == (
        first["results"][0]["instance_id"],
        ["already_running"],
    )
    assert (started["status"], other["results"][0]["status"]) == ("started", "started")
    body: dict[str, Any] = {"user_ids": [people[0].user_id]}
    none = await api.operator.post(
        "/workflows/dunning/execute/batch", json={**body, "parameters": {"invoice_id": "in-1"}}
    )
    assert (none.status_code, none.json()["started"], none.headers.get("location")) == (202, 0, None)
    missing = await api.operator.post("/workflows/dunning/execute/batch", json=body)
    assert field_errors(missing) == {("/parameters/invoice_id", "required")}


@pytest.mark.parametrize(("stored", "limits"), [(30, False), (5, True)])
async def test_the_workflows_own_number_of_attempts_limits_no_step_of_a_bulks_instance(
    database: Database, cipher: Cipher, customer: Customer, stored: int, limits: bool
) -> None:
    workflow = Startable("any", "a test", None, 30, {})
    async with database.connection() as connection:
        begun = BegunStart("test", stored, None)
        request = await bulks.request_of(connection, cipher, workflow, customer.user_id, "i-1", begun)
    assert (request.max_attempts, request.limits_attempts) == (stored, limits)


async def test_the_bulks_of_a_workflow_start_one_after_another_at_their_pace(
    api: Clients, people: list[Customer], owner: Connection
) -> None:
    await execute(api, people[:3], per_second=2)
    await execute(api, people[3:6], "win_back", per_second=2)
    await execute(api, people[3:6], per_second=4)
    rows = await owner.fetch("SELECT workflow_id, due_at FROM temporal_outbox ORDER BY outbox_id")
    due = {
        name: [row["due_at"] for row in rows if row["workflow_id"] == name] for name in ("onboarding", "win_back")
    }
    gaps = [
        round((after - before).total_seconds(), 2)
        for before, after in zip(due["onboarding"], due["onboarding"][1:], strict=False)
    ]
    assert gaps == [0.5, 0.5, 0.25, 0.25, 0.25]
    assert due["win_back"][0] - due["onboarding"][0] < timedelta(seconds=0.5), "other workflows do not wait"


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"user_ids": []}, "/user_ids", "too_short"),
        ({"user_ids": ["u"] * 1001}, "/user_ids", "too_long"),
        (
            {"user_ids": ["u"], "parameters": {"nudge_within": "soon"}},
            "/parameters/nudge_within",
            "invalid_duration",
        ),
        ({"user_ids": ["u"], "per_second": 0.5}, "/per_second", "too_small"),
        ({"user_ids": ["u"], "callback_url": "https://shop.example.com"}, "/callback_url", "unknown_field"),
    ],
)
async def test_an_invalid_bulk_is_422(api: Clients, body: dict[str, Any], pointer: str, code: str) -> None:
    assert field_errors(await api.operator.post("/workflows/onboarding/execute/batch", json=body)) == {
        (pointer, code)
    }


async def test_a_repeated_request_with_an_idempotency_key_starts_nobody_again(
    api: Clients, people: list[Customer], owner: Connection
) -> None:
    async def send() -> httpx.Response:
        body = {"user_ids": [each.user_id for each in people]}
        headers = {"Idempotency-Key": "win-back-of-may"}
        return await api.operator.post("/workflows/win_back/execute/batch", json=body, headers=headers)

    first, *others = await asyncio.gather(*(send() for _ in range(3)))
    for other in others:
        assert (other.status_code, other.json(), other.headers["location"]) == (
            202,
            first.json(),
            first.headers["location"],
        )
    assert await owner.fetchval("SELECT count(*) FROM instances") == len(people)
    assert await owner.fetchval("SELECT count(*) FROM temporal_outbox") == len(people)


async def test_a_cancelled_bulk_starts_nothing_more(
    api: Clients, people: list[Customer], temporal: Client, deliver: Callable[[], None]
) -> None:
    bulk = await execute(api, people, per_second=1)
    cancelled = await api.operator.delete(f"/workflows/onboarding/bulks/{bulk['bulk_id']}")
    assert cancelled.status_code == 202
    assert (cancelled.json()["instances"], cancelled.json()["queued"]) == (len(people), len(people))
    deliver()
    assert await until_ended(api, bulk) == {"cancelled": len(people)}
    assert await runs_of(temporal, bulk) == []
    again = await execute(api, people)
    assert again["started"] == len(people), "onboarding runs once, and has not run"


async def test_an_instance_that_may_not_start_at_its_turn_ends_as_cancelled(
    api: Clients, people: list[Customer], temporal: Client, deliver: Callable[[], None], owner: Connection
) -> None:
    bulk = await execute(api, people[:2], "win_back")
    await people[0].withdraw(Purpose.MARKETING)
    await api.admin.patch("/workflows/win_back", json={"enabled": False})
    deliver()
    assert await until_ended(api, bulk, "win_back") == {"cancelled": 2}
    reasons = {each["user_id"]: each["reason"] for each in await instances_of(api, bulk, "win_back")}
    assert reasons == {people[0].user_id: "consent_withdrawn", people[1].user_id: "workflow_disabled"}
    assert await runs_of(temporal, bulk) == []


async def test_an_exit_event_counts_while_the_instance_waits_for_its_turn(
    api: Clients, people: list[Customer], working: None, deliver: Callable[[], None]
) -> None:
    bulk = await execute(api, people[:1], "win_back")
    login = event("e-1", people[0].user_id, event_type="user.login", timestamp=datetime.now(UTC).isoformat())
    assert (await api.integrator.post("/events", json=login)).status_code == 202
    deliver()
    assert await until_ended(api, bulk, "win_back") == {"completed": 1}
    [ended] = await instances_of(api, bulk, "win_back")
    assert ended["reason"] == "returned"


async def test_the_reconciler_leaves_an_instance_alone_until_its_turn_has_come(
    api: Clients, people: list[Customer], temporal: Client, database: Database, cipher: Cipher, owner: Connection
) -> None:
    bulk = await execute(api, people[:3])
    waiting, retried, lost = [each["instance_id"] for each in bulk["results"]]
    await owner.execute("UPDATE instances SET start_time = now() - interval '1 hour'")
    tried = "UPDATE instances SET start_tried_at = now() - interval '2 minutes' WHERE instance_id = ANY($1)"
    await owner.execute(tried, [retried, lost])
    await owner.execute("DELETE FROM temporal_outbox WHERE instance_id = $1", lost)
    reconciler = Reconciler(database, cipher, temporal)
    assert (await reconciler.end_unrecorded(ReconcileRequest())).ended == 1
    path = "/workflows/onboarding/instances/"
    for each in (waiting, retried):
        assert (await api.admin.get(path + each)).json()["status"] == "running"
    found = (await api.admin.get(path + lost)).json()
    assert (found["status"], found["reason"]) == ("failed", "not_started")


async def runs_of(temporal: Client, bulk: dict[str, Any]) -> list[str]:
    """The bulk's instances of which Temporal has a run."""
    found = []
    for each in bulk["results"]:
        with contextlib.suppress(RunUnknownError):
            await describe(temporal, bulk["workflow_id"], each["instance_id"])
            found.append(each["instance_id"])
    return found
