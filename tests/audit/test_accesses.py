"""The row of each access: key, action, user, fields, request and outcome."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from api.guard import GuardedRoute
from api.resources import Resources
from models.vocabulary import Role
from runtime.database import Database
from runtime.settings import Settings
from tests.audit.log import Log
from tests.support.builders import collected, user
from tests.support.events import add_users, event
from tests.support.http import Clients, application, assert_problem, bearer, clients_of, field_errors
from tests.support.processes import ROOT

Row = dict[str, Any]


async def only_row(log: Log, request_id: str) -> Row:
    """The single row of a request."""
    [row] = [row for row in await log.rows() if row["request_id"] == request_id]
    return row


def sent_as(request_id: str) -> dict[str, str]:
    return {"X-Request-Id": request_id}


@pytest.fixture
async def people(api: Clients) -> Clients:
    """Three users who consent to the collection of their data."""
    await add_users(api.admin, ["u-1", "u-2", "u-3"])
    return api


async def test_a_read_records_the_key_the_user_and_the_fields(people: Clients, log: Log) -> None:
    answer = await people.analyst.get("/users/u-1", headers=sent_as("r-1"))
    assert answer.status_code == 200
    row = await only_row(log, "r-1")
    assert (row["role"], row["action"], row["user_id"], row["outcome"]) == ("analyst", "users.read", "u-1", "done")
    keys = (await people.admin.get("/keys")).json()["data"]
    assert row["actor"] == next(key["id"] for key in keys if key["role"] == "analyst")
    assert {"email", "name", "demographics.city", "behavior"} <= set(row["fields"])
    assert row["details"] == {"masked": True}


async def test_a_list_is_one_row_with_the_ids_it_showed(people: Clients, log: Log) -> None:
    shown = (await people.operator.get("/users", params={"limit": 2}, headers=sent_as("r-1"))).json()["data"]
    row = await only_row(log, "r-1")
    assert row["subjects"] == [each["user_id"] for each in shown] == ["u-1", "u-2"]
    assert row["user_id"] is None


async def test_a_search_records_the_users_it_found_and_not_the_address(people: Clients, log: Log) -> None:
    await people.admin.post("/users/search", json={"email": "U-2@example.com"}, headers=sent_as("r-1"))
    row = await only_row(log, "r-1")
    assert (row["action"], row["subjects"]) == ("users.search", ["u-2"])
    assert "example" not in str(row)


async def test_writes_record_the_names_of_the_fields(people: Clients, log: Log) -> None:
    document = collected("u-9", city="London")
    await people.integrator.post("/users", json=document, headers=sent_as("r-1"))
    created = await only_row(log, "r-1")
    assert (created["action"], created["user_id"]) == ("users.create", "u-9")
    assert {"email", "demographics.city", "consents.data_collection"} <= set(created["fields"])
    await people.integrator.patch("/users/u-9", json={"name": "Bea"}, headers=sent_as("r-2"))
    changed = await only_row(log, "r-2")
    assert (changed["action"], changed["fields"]) == ("users.change", ["name"])
    batch = {"users": [user("u-1"), user("u-8"), {"user_id": "u-7"}]}
    await people.integrator.post("/users/batch", json=batch, headers=sent_as("r-3"))
    upserted = await only_row(log, "r-3")
    assert upserted["subjects"] == ["u-1", "u-8"]
    assert upserted["details"] == {"users": 3, "created": 1, "updated": 1, "rejected": 1}


async def test_a_repeated_answer_is_recorded_too(people: Clients, log: Log) -> None:
    for number in range(2):
        headers = {"Idempotency-Key": "once", **sent_as(f"r-{number}")}
        assert (await people.admin.post("/users", json=user("u-9"), headers=headers)).status_code == 201
    rows = [await only_row(log, "r-0"), await only_row(log, "r-1")]
    assert [row["details"]["replayed"] for row in rows] == [False, True]
    assert {row["user_id"] for row in rows} == {"u-9"}


async def test_reads_and_changes_of_consents_are_recorded(people: Clients, log: Log) -> None:
    await people.admin.get("/users/u-1/consents", headers=sent_as("r-1"))
    await people.admin.get("/users/u-1/consents/history", headers=sent_as("r-2"))
    granted = {"granted": True, "source": "form"}
    await people.integrator.put("/users/u-1/consents/marketing", json=granted, headers=sent_as("r-3"))
    await people.integrator.delete("/users/u-1/consents/marketing", headers=sent_as("r-4"))
    rows = [await only_row(log, f"r-{number}") for number in range(1, 5)]
    assert [row["action"] for row in rows] == [
        "consents.read",
        "consents.history",
        "consents.change",
        "consents.change",
    ]
    assert [row["details"].get("granted") for row in rows[2:]] == [True, False]
    assert {row["user_id"] for row in rows} == {"u-1"}


async def test_a_batch_of_events_is_one_row_with_the_users_whose_events_are_stored(
    people: Clients, log: Log
) -> None:
    await people.admin.delete("/users/u-3/consents/data_collection")
    events = [event("e-1", "u-1"), event("e-2", "u-2"), event("e-3", "u-1"), event("e-4", "u-3")]
    batch = {"events": [*events, event("e-5", "nobody"), {"event_id": "e-6"}, event("e-1", "u-1")]}
    await people.integrator.post("/events/batch", json=batch, headers=sent_as("r-1"))
    row = await only_row(log, "r-1")
    assert (row["action"], row["role"], row["subjects"]) == ("events.ingest", "integrator", ["u-1", "u-2"])
    assert row["details"] == {"events": 7, "accepted": 3, "duplicates": 1, "rejected": 3}


async def test_concurrent_single_events_are_one_row_for_each_request(people: Clients, log: Log) -> None:
    async def ingest(number: int) -> httpx.Response:
        document = event(f"e-{number}", f"u-{number % 4}")
        return await people.integrator.post("/events", json=document, headers=sent_as(f"r-{number}"))

    answers = await asyncio.gather(*(ingest(number) for number in range(20)))
    for number, answer in enumerate(answers):
        row = await only_row(log, f"r-{number}")
        assert row["user_id"] == (f"u-{number % 4}" if number % 4 else None)
        expected = ("done", 202) if number % 4 else ("refused", 422)
        assert (row["outcome"], answer.status_code) == expected
        assert row["details"] == ({"status": "accepted"} if number % 4 else {"code": "user_unknown"})


async def test_reading_events_and_transactions_is_recorded(people: Clients, log: Log) -> None:
    await people.admin.post("/events", json=event("e-1", "u-1"))
    await people.operator.get("/users/u-1/events", headers=sent_as("r-1"))
    row = await only_row(log, "r-1")
    assert (row["action"], row["user_id"], row["details"]) == ("events.list", "u-1", {"shown": 1, "masked": True})
    await people.operator.get("/users/u-1/transactions", headers=sent_as("r-2"))
    assert (await only_row(log, "r-2"))["action"] == "transactions.list"


async def test_a_request_for_an_unknown_user_is_recorded_without_the_id(people: Clients, log: Log) -> None:
    assert_problem(await people.admin.get("/users/u-0", headers=sent_as("r-1")), 404, "user_not_found")
    row = await only_row(log, "r-1")
    assert (row["user_id"], row["outcome"], row["details"]) == (None, "refused", {"code": "user_not_found"})
    assert_problem(await people.admin.post("/users", json=user("u-1"), headers=sent_as("r-2")), 409, "user_exists")
    row = await only_row(log, "r-2")
    assert (row["user_id"], row["outcome"], row["details"]) == ("u-1", "refused", {"code": "user_exists"})


async def test_a_request_with_invalid_content_is_not_recorded(people: Clients, log: Log) -> None:
    assert (await people.admin.post("/users", json={}, headers=sent_as("r-1"))).status_code == 422
    assert (await people.admin.get("/users?x=1", headers=sent_as("r-1"))).status_code == 422
    assert (await people.anonymous.get("/users/u-1", headers=sent_as("r-1"))).status_code == 401
    assert not [row for row in await log.rows() if row["request_id"] == "r-1"]


def guarded_routes(app: FastAPI) -> list[tuple[str, str, GuardedRoute]]:
    """Every route that needs a key: method, path, route."""
    return [
        (method, str(context.path), context.original_route)
        for context in iter_route_contexts(app.routes)
        if isinstance(context.original_route, GuardedRoute) and not context.original_route.access.public
        for method in context.methods or ()
    ]


@pytest.mark.parametrize("lists", ["events", "transactions", "instances", "consents/history"])
async def test_a_bad_cursor_never_shows_whether_a_user_exists(people: Clients, log: Log, lists: str) -> None:
    for user_id in ("u-1", "unknown"):
        refused = await people.admin.get(
            f"/users/{user_id}/{lists}", params={"cursor": "x"}, headers=sent_as("r-1")
        )
        assert field_errors(refused) == {("/query/cursor", "invalid_cursor")}
    assert not [row for row in await log.rows() if row["request_id"] == "r-1"]


async def test_every_denied_access_is_recorded(app: FastAPI, api: Clients, log: Log) -> None:
    await add_users(api.admin, ["u-1"])
    expected = len(await log.rows())
    for method, path, route in guarded_routes(app):
        for role in set(Role) - route.access.roles:
            url = path.replace("{user_id}", "u-1")
            headers = sent_as(f"r-{role}")
            assert_problem(await api.of(role).request(method, url, headers=headers), 403, "forbidden")
            expected += route.action is not None
            if route.action is not None:
                row = (await log.rows())[-1]
                assert (row["action"], row["role"], row["outcome"]) == (route.action, role, "denied")
                assert row["user_id"] == ("u-1" if "{user_id}" in path else None)
    assert len(await log.rows()) == expected > 20


def test_every_action_is_in_the_documentation(app: FastAPI) -> None:
    text = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    for _, path, route in guarded_routes(app):
        assert route.action is None or f"`{route.action}`" in text, path


async def test_no_row_contains_personal_data_but_the_id(people: Clients, log: Log) -> None:
    secret = "Zyxwvut"
    person = collected("u-5", city=secret) | {"email": f"{secret}@example.com", "name": secret}
    await people.admin.post("/users", json=person)
    await people.admin.patch("/users/u-5", json={"name": f"{secret} B"})
    await people.admin.post("/users/batch", json={"users": [person, {**person, "email": secret}]})
    await people.admin.post("/users/search", json={"email": f"{secret}@example.com"})
    for path in ("u-5", secret, f"{secret}@example.com", f"{secret}%20B", f"{secret}@example.com/events"):
        for client in (people.admin, people.integrator):
            await client.get(f"/users/{path}")
    shown = event(
        "e-1", "u-5", event_properties={secret: secret}, referrer=f"https://{secret.lower()}.example.com"
    )
    await people.admin.post("/events", json=shown)
    await people.admin.post("/events/batch", json={"events": [shown, {**shown, "event_id": "e-2"}, {secret: 1}]})
    await people.admin.get("/users/u-5/events")
    await people.admin.get("/audit", params={"actor": secret, "user_id": secret})
    rows = await log.rows()
    assert len(rows) == 19
    assert secret.lower() not in str(rows).lower()


async def test_the_row_is_committed_before_the_first_byte_of_the_answer(
    app: FastAPI, people: Clients, log: Log
) -> None:
    """Another connection looks for the row at the moment when the first byte would be sent."""
    found: list[int] = []

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def look(message: Any) -> None:
            if message["type"] == "http.response.start":
                found.append(
                    await log.superuser.fetchval("SELECT count(*) FROM audit_log WHERE request_id = 'r-1'")
                )
            await send(message)

        await app(scope, receive, look)

    headers = {**people.admin.headers, **sent_as("r-1")}
    transport = httpx.ASGITransport(watched)
    async with httpx.AsyncClient(transport=transport, base_url="http://perennial.test", headers=headers) as client:
        await client.get("/users/u-1")
        await client.get("/users/u-0")
        await client.post("/events", json=event("e-1"))
        await client.post("/events/batch", json={"events": [event("e-2")]})
    assert found == [1, 2, 3, 4]


async def test_without_its_row_nothing_is_shown_or_changed(people: Clients, log: Log) -> None:
    columns = "actor, role, action, user_id, subjects, fields, request_id, outcome, details"
    await log.superuser.execute(f"REVOKE INSERT ({columns}) ON audit_log FROM perennial_app")
    try:
        shown = await people.admin.get("/users/u-1")
        made = await people.admin.post("/users", json=user("u-9"))
        stored = await people.admin.post("/events", json=event("e-1"))
    finally:
        await log.superuser.execute(f"GRANT INSERT ({columns}) ON audit_log TO perennial_app")
    for answer in (shown, made, stored):
        assert_problem(answer, 500, "internal_error")
    assert_problem(await people.admin.get("/users/u-9"), 404, "user_not_found")
    assert (await people.admin.get("/users/u-1/events")).json()["data"] == []


async def test_refusals_need_no_second_connection(
    people: Clients, resources: Resources, database_url: str, log: Log
) -> None:
    narrow = Database(database_url, size=1, application="narrow")
    await narrow.open()
    try:
        given = (resources.settings, narrow, resources.limiter, resources.cipher, resources.temporal)
        async with clients_of(application(Resources(*given)), log.database) as clients:
            answers = await asyncio.gather(*(clients.admin.get(f"/users/no-{number}") for number in range(10)))
    finally:
        await narrow.close()
    assert {answer.status_code for answer in answers} == {404}
    assert len([row for row in await log.rows() if row["outcome"] == "refused"]) == 10


async def test_a_304_is_recorded(people: Clients, log: Log) -> None:
    tag = (await people.analyst.get("/users/u-1")).headers["etag"]
    answer = await people.analyst.get("/users/u-1", headers={"If-None-Match": tag, **sent_as("r-1")})
    assert answer.status_code == 304
    assert (await only_row(log, "r-1"))["action"] == "users.read"


async def test_declaring_an_event_type_is_recorded(people: Clients, log: Log) -> None:
    declared = {"schema": {"type": "object"}, "pii": ["/note", "/phone"], "dimensions": ["level"]}
    answer = await people.admin.put("/events/types/lesson.finish", json=declared, headers=sent_as("r-1"))
    assert answer.status_code == 201
    row = await only_row(log, "r-1")
    assert (row["action"], row["user_id"], row["outcome"]) == ("event_types.change", None, "done")
    counts = {"event_type": "lesson.finish", "version": 1, "pii": 2, "dimensions": 1}
    assert row["details"] == counts | {"basis": "consent", "basis_before": "consent", "basis_reason": None}


async def test_a_change_to_a_workflow_is_recorded_with_the_values_before_and_after(
    people: Clients, log: Log
) -> None:
    path = "/workflows/onboarding"
    for number, patch in enumerate(({"max_attempts": 7, "enabled": False}, {"max_attempts": None}, {})):
        answer = await people.admin.patch(path, json=patch, headers=sent_as(f"r-{number}"))
        assert answer.status_code == 200
    await people.operator.patch(path, json={}, headers=sent_as("r-3"))
    rows = [await only_row(log, f"r-{number}") for number in range(4)]
    assert {row["action"] for row in rows} == {"workflows.change"}
    named = {"workflow_id": "onboarding"}
    assert [(row["fields"], row["details"]) for row in rows[:3]] == [
        (
            ["enabled", "max_attempts"],
            named | {"enabled_before": True, "enabled": False, "max_attempts_before": None, "max_attempts": 7},
        ),
        (["max_attempts"], named | {"max_attempts_before": 7, "max_attempts": None}),
        ([], named),
    ]
    assert rows[3]["outcome"] == "denied"


async def test_keys_changed_on_the_command_line_are_recorded(
    people: Clients, log: Log, api_settings: Settings
) -> None:
    made = await perennial(api_settings, "keys", "create", "--name", "x", "--role", "analyst")
    key = next(each["id"] for each in (await people.admin.get("/keys")).json()["data"] if each["name"] == "x")
    rotated = await perennial(api_settings, "keys", "rotate", key, "--keep-hours", "0")
    roles = ("--role", "integrator", "--role", "operator")
    changed = await perennial(api_settings, "keys", "update", key, *roles, "--rate-limit", "7")
    for secret, status in ((made, 401), (rotated, 200)):
        answer = await people.anonymous.get("/users", headers=bearer(secret.strip()))
        assert answer.status_code == status
    assert changed.strip() == f"Key {key}: x, operator, integrator, rate limit 7."
    await perennial(api_settings, "keys", "revoke", key)
    rows = [row for row in await log.rows() if row["actor"] == "system:cli"]
    assert [(row["role"], row["action"], row["details"]) for row in rows] == [
        ("system", "keys.create", {"key_id": key, "role": "analyst"}),
        ("system", "keys.rotate", {"key_id": key, "keep_hours": 0}),
        (
            "system",
            "keys.change",
            {
                "key_id": key,
                "role_before": "analyst",
                "role": "operator,integrator",
                "rate_limit_before": None,
                "rate_limit": 7,
            },
        ),
        ("system", "keys.revoke", {"key_id": key}),
    ]


async def perennial(settings: Settings, *arguments: str) -> str:
    """The standard output of a command."""
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", *arguments),
        cwd=ROOT,
        env={**os.environ, "PERENNIAL_DATABASE_URL": str(settings.database_url)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await command.communicate()
    assert command.returncode == 0
    return output.decode()
