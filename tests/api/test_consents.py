"""Consents: the present state, the history, and the effect of a withdrawal on ingest."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from models.vocabulary import Purpose, Role
from runtime.database import Database
from store.connection import Connection
from tests.support.builders import user
from tests.support.events import add_user, event
from tests.support.http import Clients, assert_problem, field_errors
from tests.support.locks import until_blocked

GRANT = {"granted": True, "source": "signup_form", "policy_version": "2026-01", "legal_basis": "consent"}
COLLECTION = "/users/u-1/consents/data_collection"


ERASURES = {
    "the key first": "UPDATE data_keys SET wrapped = NULL, destroyed_at = now()",
    "with the profile": "UPDATE data_keys SET wrapped = NULL, destroyed_at = now(); DELETE FROM users",
}


async def history(api: Clients) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = (await api.admin.get("/users/u-1/consents/history")).json()["data"]
    return entries


async def test_every_consent_is_denied_by_default(api: Clients) -> None:
    await api.admin.post("/users", json=user())
    answer = (await api.operator.get("/users/u-1/consents")).json()
    assert answer["consents"] == dict.fromkeys(Purpose, False)
    assert [(each["purpose"], each["granted"], each["changed_at"]) for each in answer["details"]] == [
        (purpose, False, None) for purpose in Purpose
    ]
    assert await history(api) == []


async def test_a_consent_keeps_its_source_policy_and_legal_basis(api: Clients) -> None:
    await api.admin.post("/users", json=user())
    answer = await api.admin.put(COLLECTION, json=GRANT)
    assert answer.status_code == 200
    assert answer.json() | {"changed_at": ""} == {
        "user_id": "u-1",
        "purpose": "data_collection",
        **GRANT,
        "changed_at": "",
    }
    assert (await api.admin.get("/users/u-1")).json()["consents"]["data_collection"] is True
    answer = (await api.admin.get("/users/u-1/consents")).json()
    assert answer["consents"]["data_collection"] is True
    assert {**GRANT, "purpose": "data_collection"}.items() <= answer["details"][0].items()


async def test_the_history_is_append_only_and_names_actor_and_time(api: Clients, database: Database) -> None:
    await api.admin.post("/users", json=user())
    await api.integrator.put(COLLECTION, json=GRANT)
    await api.integrator.put(COLLECTION, json=GRANT)
    await api.integrator.put(COLLECTION, json=GRANT | {"policy_version": "2026-02"})
    await api.integrator.delete(COLLECTION)
    await api.integrator.delete(COLLECTION)
    await api.admin.patch("/users/u-1", json={"consents": {"data_collection": True}})
    entries = await history(api)
    assert [(each["granted"], each["source"], each["policy_version"]) for each in entries] == [
        (True, "signup_form", "2026-01"),
        (True, "signup_form", "2026-02"),
        (False, "api", None),
        (True, "profile", None),
    ]
    assert all(each["actor"].startswith("key_") and each["recorded_at"] for each in entries)
    async with database.connection() as connection:
        for statement in ("UPDATE consent_history SET granted = true", "DELETE FROM consent_history"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)


async def test_the_history_is_paginated(api: Clients) -> None:
    await api.admin.post("/users", json=user())
    for number in range(5):
        await api.integrator.put(COLLECTION, json=GRANT | {"policy_version": f"v{number}"})
    path, seen, cursor = "/users/u-1/consents/history", [], None
    for _ in range(3):
        parameters = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await api.analyst.get(path, params=parameters)).json()
        seen += [each["policy_version"] for each in page["data"]]
        cursor = page["pagination"]["next_cursor"]
    assert (seen, cursor) == ([f"v{number}" for number in range(5)], None)
    bad = await api.admin.get(path, params={"cursor": "WyJjb25zZW50LWhpc3RvcnkiLCJ4Il0"})
    assert field_errors(bad) == {("/query/cursor", "invalid_cursor")}


async def test_a_change_of_consent_changes_the_profiles_etag(api: Clients) -> None:
    await api.admin.post("/users", json=user())
    before = (await api.admin.get("/users/u-1")).headers["etag"]
    await api.integrator.put(COLLECTION, json=GRANT)
    changed = await api.admin.get("/users/u-1", headers={"If-None-Match": before})
    assert changed.status_code == 200
    await api.integrator.put(COLLECTION, json=GRANT)
    same = await api.admin.get("/users/u-1", headers={"If-None-Match": changed.headers["etag"]})
    assert same.status_code == 304


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("PUT", COLLECTION, {"granted": False}),
        ("DELETE", COLLECTION, None),
        ("PATCH", "/users/u-1", {"consents": {"data_collection": False}}),
        ("PATCH", "/users/u-1", {"consents": {"data_collection": None}}),
        ("PATCH", "/users/u-1", {"consents": None}),
        ("POST", "/users/batch", {"users": [{"user_id": "u-1", "consents": {"data_collection": False}}]}),
        (
            "POST",
            "/consents/batch",
            {"consents": [{"user_id": "u-1", "purpose": "data_collection", "granted": False}]},
        ),
    ],
)
async def test_after_a_withdrawal_no_event_is_stored_until_the_consent_is_granted_again(
    api: Clients, owner: Connection, method: str, path: str, content: Any
) -> None:
    await add_user(api.admin)
    assert (await api.integrator.post("/events", json=event())).status_code == 202
    answer = await api.integrator.request(method, path, json=content)
    assert answer.status_code == 200, answer.text
    assert_problem(await api.integrator.post("/events", json=event()), 403, "consent_required")
    batch = await api.integrator.post("/events/batch", json={"events": [event()]})
    assert batch.json()["results"][0]["errors"][0]["code"] == "consent_required"
    assert await owner.fetchval("SELECT count(*) FROM events") == 1
    await api.integrator.put(COLLECTION, json={"granted": True})
    assert (await api.integrator.post("/events", json=event())).status_code == 202


async def test_each_role_may_do_what_the_contract_says(api: Clients) -> None:
    await api.admin.post("/users", json=user())
    for role in Role:
        reads = 403 if role is Role.INTEGRATOR else 200
        writes = 200 if role in (Role.ADMIN, Role.INTEGRATOR) else 403
        client = api.of(role)
        assert (await client.get("/users/u-1/consents")).status_code == reads
        assert (await client.get("/users/u-1/consents/history")).status_code == reads
        assert (await client.put(COLLECTION, json=GRANT)).status_code == writes
        assert (await client.delete(COLLECTION)).status_code == writes


async def test_consents_of_unknown_and_erased_users_are_404_and_410(api: Clients, owner: Connection) -> None:
    requests = [
        ("GET", "/users/u-1/consents", None),
        ("GET", "/users/u-1/consents/history", None),
        ("PUT", COLLECTION, GRANT),
        ("DELETE", COLLECTION, None),
    ]
    for method, path, content in requests:
        assert_problem(await api.admin.request(method, path, json=content), 404, "user_not_found")
    await api.admin.post("/users", json=user())
    await owner.execute("UPDATE data_keys SET wrapped = NULL, destroyed_at = now()")
    for method, path, content in requests:
        assert_problem(await api.admin.request(method, path, json=content), 410, "user_erased")


@pytest.mark.parametrize(
    ("content", "pointer", "code"),
    [
        ({}, "/granted", "required"),
        ({"granted": "yes"}, "/granted", "invalid_type"),
        ({"granted": True, "source": " "}, "/source", "blank"),
        ({"granted": True, "legal_basis": "because"}, "/legal_basis", "invalid_choice"),
        ({"granted": True, "more": 1}, "/more", "unknown_field"),
    ],
)
async def test_the_content_of_a_consent_is_validated(api: Clients, content: Any, pointer: str, code: str) -> None:
    await api.admin.post("/users", json=user())
    assert field_errors(await api.admin.put(COLLECTION, json=content)) == {(pointer, code)}


async def test_an_unknown_purpose_is_rejected(api: Clients) -> None:
    await api.admin.post("/users", json=user())
    answer = await api.admin.put("/users/u-1/consents/selling", json=GRANT)
    assert field_errors(answer) == {("/path/purpose", "invalid_choice")}


@pytest.mark.parametrize("erasure", ERASURES)
async def test_a_consent_that_waited_for_an_erasure_is_410(
    api: Clients, owner: Connection, database: Database, erasure: str
) -> None:
    await api.admin.post("/users", json=user())
    async with owner.transaction():
        await owner.execute("SELECT FROM users FOR UPDATE")
        waiting = [
            asyncio.create_task(api.integrator.put(COLLECTION, json=GRANT)),
            asyncio.create_task(api.integrator.delete(COLLECTION)),
        ]
        await until_blocked(database, len(waiting))
        await owner.execute(ERASURES[erasure])
    for answer in await asyncio.gather(*waiting):
        assert_problem(answer, 410, "user_erased")
    assert await owner.fetchval("SELECT count(*) FROM consents") == 0


async def test_without_profiling_the_next_answer_has_no_score(api: Clients) -> None:
    await api.admin.post("/users", json=user(consents={"profiling": True}))
    assert await scores(api) == {0.0}
    await api.admin.delete("/users/u-1/consents/profiling")
    assert await scores(api) == {None}
    await api.admin.put("/users/u-1/consents/profiling", json=GRANT)
    assert await scores(api) == {0.0}


async def scores(api: Clients) -> set[float | None]:
    """The score of the user in every answer that contains it."""
    one = (await api.analyst.get("/users/u-1")).json()
    (listed,) = (await api.operator.get("/users")).json()["data"]
    (searched,) = (await api.admin.post("/users/search", json={"email": "u-1@example.com"})).json()["data"]
    return {each["behavior"]["engagement_score"] for each in (one, listed, searched)}
