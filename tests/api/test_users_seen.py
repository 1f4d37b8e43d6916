"""Reading profiles: masks by role, lists, the search, and erased users."""

from __future__ import annotations

from typing import Any

import pytest

from models.vocabulary import Role
from store.connection import Connection
from tests.support.builders import BORN, EVERYTHING, user
from tests.support.http import Clients, assert_problem


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ANALYST])
async def test_operators_and_analysts_see_masked_profiles(api: Clients, role: Role) -> None:
    full = (await api.admin.post("/users", json=EVERYTHING)).json()
    masked = (await api.of(role).get("/users/u-1")).json()
    assert masked["email"] == "u**@e******.com"
    assert masked["name"] == "A** L*******"
    assert masked["demographics"]["date_of_birth"] == "****-**-**"
    assert masked["demographics"]["city"] == "B*****"
    for name in ("age", "gender", "timezone", "language", "device_type"):
        assert masked["demographics"][name] == "***"
    for secret in ("Lovelace", 'Berlin"', BORN[:4], "u-1@"):
        assert secret not in str(masked)
    assert masked["demographics"]["country"] == full["demographics"]["country"]
    (listed,) = (await api.of(role).get("/users")).json()["data"]
    assert listed == masked


async def test_an_integrator_sees_only_what_it_sent(api: Clients) -> None:
    created = (await api.integrator.post("/users", json=EVERYTHING)).json()
    assert set(created) == set(EVERYTHING) | {"created_at", "updated_at"}
    assert created["demographics"] == EVERYTHING["demographics"]

    patch = {"demographics": {"city": "Bonn"}, "transactions": {"subscription_tier": "free"}}
    changed = (await api.integrator.patch("/users/u-1", json=patch)).json()
    assert set(changed) == {"user_id", "created_at", "updated_at", *patch}
    assert changed["demographics"] == {"city": "Bonn"}
    assert changed["transactions"] == {"subscription_tier": "free"}
    for path in ("/users", "/users/u-1"):
        assert_problem(await api.integrator.get(path), 403, "forbidden")
    assert_problem(await api.integrator.post("/users/search", json={"email": "u-1@example.com"}), 403, "forbidden")


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ANALYST])
async def test_operators_and_analysts_can_not_write(api: Clients, role: Role) -> None:
    client = api.of(role)
    assert_problem(await client.post("/users", json=user()), 403, "forbidden")
    assert_problem(await client.post("/users/batch", json={"users": [user()]}), 403, "forbidden")
    assert_problem(await client.patch("/users/u-1", json={"name": "X"}), 403, "forbidden")


async def test_an_erased_id_is_410_on_every_route(api: Clients, owner: Connection) -> None:
    await api.admin.post("/users", json=user())
    await owner.execute("UPDATE data_keys SET wrapped = NULL, destroyed_at = now() WHERE subject = 'u-1'")
    assert_problem(await api.admin.get("/users/u-1"), 410, "user_erased")
    assert_problem(await api.admin.patch("/users/u-1", json={"name": "X"}), 410, "user_erased")
    assert_problem(await api.admin.post("/users", json=user()), 410, "user_erased")
    assert (await api.admin.get("/users")).json()["data"] == []
    assert (await api.admin.post("/users/search", json={"email": "u-1@example.com"})).json()["data"] == []
    (result,) = (await api.admin.post("/users/batch", json={"users": [user()]})).json()["results"]
    assert result["status"] == "rejected"
    assert result["errors"][0]["code"] == "user_erased"


async def test_a_consent_is_written_to_its_history_when_it_changes(api: Clients, owner: Connection) -> None:
    await api.admin.post("/users", json=user(consents={"marketing": True, "profiling": False}))
    await api.admin.patch("/users/u-1", json={"consents": {"marketing": True}})
    await api.admin.patch("/users/u-1", json={"consents": {"marketing": False}})
    rows = await owner.fetch("SELECT purpose, granted, source, actor FROM consent_history ORDER BY record_id")
    assert {(row["purpose"], row["granted"]) for row in rows[:2]} == {("marketing", True), ("profiling", False)}
    assert [(row["purpose"], row["granted"]) for row in rows[2:]] == [("marketing", False)]
    assert {row["source"] for row in rows} == {"profile"}
    assert rows[0]["actor"].startswith("key_")


async def test_pages_contain_all_users_in_order_and_once(api: Clients) -> None:
    ids = [f"u-{number:03}" for number in range(25)]
    await api.admin.post("/users/batch", json={"users": [user(user_id) for user_id in reversed(ids)]})
    found: list[str] = []
    parameters: dict[str, Any] = {"limit": 10}
    while True:
        page = (await api.admin.get("/users", params=parameters)).json()
        assert page["pagination"]["limit"] == 10
        found += [each["user_id"] for each in page["data"]]
        if page["pagination"]["next_cursor"] is None:
            break
        parameters["cursor"] = page["pagination"]["next_cursor"]
    assert found == ids


async def test_lists_filter_by_stage_and_status(api: Clients) -> None:
    await api.admin.post("/users", json=user("a", lifecycle_stage="active"))
    await api.admin.post("/users", json=user("b", lifecycle_stage="active", account_status="closed"))
    await api.admin.post("/users", json=user("c", lifecycle_stage="dormant"))

    async def ids(**parameters: str) -> list[str]:
        page = (await api.analyst.get("/users", params=parameters)).json()
        return [each["user_id"] for each in page["data"]]

    assert await ids(lifecycle_stage="active") == ["a", "b"]
    assert await ids(account_status="active") == ["a", "c"]
    assert await ids(lifecycle_stage="active", account_status="closed") == ["b"]
    assert await ids(lifecycle_stage="churned") == []


async def test_an_operator_finds_a_person_by_e_mail_and_sees_the_profile_masked(api: Clients) -> None:
    await api.admin.post("/users", json=user("a", email="ada@example.com"))
    search = {"email": "Ada@example.com"}
    [found] = (await api.operator.post("/users/search", json=search)).json()["data"]
    assert found == (await api.operator.get("/users/a")).json()
    assert (found["user_id"], found["email"]) == ("a", "a**@e******.com")
    for role in (Role.ANALYST, Role.INTEGRATOR):
        assert_problem(await api.of(role).post("/users/search", json=search), 403, "forbidden")


async def test_search_finds_an_address_without_regard_to_case(api: Clients) -> None:
    await api.admin.post("/users", json=user("a", email="Ada@Example.com"))
    await api.admin.post("/users", json=user("b", email="ada@example.com"))
    await api.admin.post("/users", json=user("c", email="eve@example.com"))
    page = (await api.admin.post("/users/search", json={"email": "ADA@example.COM"})).json()
    assert [each["user_id"] for each in page["data"]] == ["a", "b"]
    assert page["pagination"] == {"limit": 100, "next_cursor": None}
    await api.admin.patch("/users/a", json={"email": "new@example.com"})
    page = (await api.admin.post("/users/search", json={"email": "ada@example.com"})).json()
    assert [each["user_id"] for each in page["data"]] == ["b"]
