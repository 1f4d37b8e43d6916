"""`/keys`: create, list, revoke; the secret is shown once."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models.vocabulary import Role
from runtime.database import Database
from store import api_keys
from store.connection import Connection
from tests.support.builders import user
from tests.support.http import Clients, assert_problem, bearer, field_errors


async def test_a_key_is_shown_once_and_then_accepted(api: Clients, owner: Connection) -> None:
    created = await api.admin.post("/keys", json={"name": "crm", "role": "integrator", "rate_limit": 5})
    assert created.status_code == 201
    key = created.json()
    assert set(key) == {"id", "key", "name", "role", "roles", "rate_limit", "created_at"}
    assert (key["name"], key["role"], key["roles"], key["rate_limit"]) == ("crm", "integrator", ["integrator"], 5)
    assert created.headers["location"] == f"/keys/{key['id']}"
    assert api_keys.well_formed(key["key"])

    answer = await api.anonymous.post("/users", headers=bearer(key["key"]), json={})
    assert answer.status_code == 422
    assert answer.headers["ratelimit-policy"] == '"default";q=5;w=60'

    listed = await api.admin.get("/keys")
    (found,) = (each for each in listed.json()["data"] if each["id"] == key["id"])
    assert found == {k: v for k, v in key.items() if k != "key"} | {"revoked_at": None}
    assert key["key"] not in listed.text
    row = await owner.fetchrow("SELECT * FROM api_keys WHERE key_id = $1", key["id"])
    assert row is not None
    assert row["hash"] == hashlib.sha256(key["key"].encode()).digest()
    assert key["key"] not in str(dict(row))


async def test_a_revocation_applies_to_the_next_request(api: Clients) -> None:
    key = (await api.admin.post("/keys", json={"name": "x", "role": "analyst"})).json()
    assert (await api.anonymous.get("/users", headers=bearer(key["key"]))).status_code == 200
    assert (await api.admin.delete(f"/keys/{key['id']}")).status_code == 204
    assert_problem(await api.anonymous.get("/users", headers=bearer(key["key"])), 401, "unauthenticated")

    (first,) = (each for each in (await api.admin.get("/keys")).json()["data"] if each["id"] == key["id"])
    assert first["revoked_at"]
    assert (await api.admin.delete(f"/keys/{key['id']}")).status_code == 204
    (again,) = (each for each in (await api.admin.get("/keys")).json()["data"] if each["id"] == key["id"])
    assert again == first


@pytest.mark.parametrize("key_id", ["key_nowhere", "%00", "x" * 500])
async def test_an_unknown_key_can_not_be_revoked(api: Clients, key_id: str) -> None:
    assert (await api.admin.delete(f"/keys/{key_id}")).status_code == 404


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"name": ""}, "/name", "blank"),
        ({"name": "x" * 65}, "/name", "too_long"),
        ({"name": None}, "/name", "required"),
        ({"role": "root"}, "/role", "invalid_choice"),
        ({"role": None}, "/role", "required"),
        ({"roles": ["admin"]}, "/roles", "ambiguous"),
        ({"roles": []}, "/roles", "too_short"),
        ({"rate_limit": 0}, "/rate_limit", "too_small"),
        ({"rate_limit": 10**30}, "/rate_limit", "invalid_type"),
        ({"rate_limit": 2**40}, "/rate_limit", "too_large"),
        ({"rate_limit": "5"}, "/rate_limit", "invalid_type"),
        ({"key": "prn_mine"}, "/key", "unknown_field"),
    ],
)
async def test_the_content_of_a_key_is_validated(
    api: Clients, changes: dict[str, Any], pointer: str, code: str
) -> None:
    document = {"name": "x", "role": "analyst"} | changes
    assert field_errors(await api.admin.post("/keys", json=document)) == {(pointer, code)}


@pytest.mark.parametrize("role", sorted(set(Role) - {Role.ADMIN}))
async def test_only_admins_manage_keys(api: Clients, role: Role) -> None:
    assert_problem(await api.of(role).get("/keys"), 403, "forbidden")
    assert_problem(await api.of(role).post("/keys", json={"name": "x", "role": "admin"}), 403, "forbidden")
    assert_problem(await api.of(role).patch("/keys/key_1", json={}), 403, "forbidden")
    assert_problem(await api.of(role).post("/keys/key_1/rotate"), 403, "forbidden")
    assert_problem(await api.of(role).delete("/keys/key_1"), 403, "forbidden")


async def test_a_rotation_keeps_the_key_and_its_replaced_secret_for_a_day(api: Clients, owner: Connection) -> None:
    key = (await api.admin.post("/keys", json={"name": "x", "role": "analyst", "rate_limit": 4})).json()
    secrets = [key["key"]]
    for _ in range(2):  # the first answer was lost
        rotated = await api.admin.post(f"/keys/{key['id']}/rotate")
        assert rotated.status_code == 200
        secrets.append(rotated.json()["key"])
    until = datetime.fromisoformat(rotated.json()["replaced_until"])
    assert abs(until - datetime.now(UTC) - timedelta(days=1)) < timedelta(minutes=1)

    answers = [await api.anonymous.get("/users", headers=bearer(secret)) for secret in secrets]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=3", "r=2", "r=1"]
    await owner.execute("UPDATE replaced_secrets SET expires_at = now()")
    assert_problem(await api.anonymous.get("/users", headers=bearer(secrets[0])), 401, "unauthenticated")
    assert (await api.anonymous.get("/users", headers=bearer(secrets[2]))).status_code == 200

    await api.admin.post(f"/keys/{key['id']}/rotate")
    assert await owner.fetchval("SELECT count(*) FROM replaced_secrets") == 1, "expired ones are deleted"
    actions = [row["action"] for row in (await api.admin.get("/audit")).json()["data"]]
    assert actions.count("keys.rotate") == 3


async def test_after_a_leak_a_rotation_ends_all_earlier_secrets_at_once(api: Clients) -> None:
    key = (await api.admin.post("/keys", json={"name": "x", "role": "analyst"})).json()
    second = (await api.admin.post(f"/keys/{key['id']}/rotate")).json()
    third = (await api.admin.post(f"/keys/{key['id']}/rotate", params={"keep_hours": 0})).json()
    for leaked in (key, second):
        assert_problem(await api.anonymous.get("/users", headers=bearer(leaked["key"])), 401, "unauthenticated")
    assert (await api.anonymous.get("/users", headers=bearer(third["key"]))).status_code == 200


async def test_a_revocation_ends_replaced_secrets_and_forbids_changes(api: Clients) -> None:
    key = (await api.admin.post("/keys", json={"name": "x", "role": "analyst"})).json()
    rotated = (await api.admin.post(f"/keys/{key['id']}/rotate")).json()
    assert (await api.admin.delete(f"/keys/{key['id']}")).status_code == 204
    for secret in (key["key"], rotated["key"]):
        assert_problem(await api.anonymous.get("/users", headers=bearer(secret)), 401, "unauthenticated")
    assert_problem(await api.admin.post(f"/keys/{key['id']}/rotate"), 409, "key_revoked")
    assert_problem(await api.admin.patch(f"/keys/{key['id']}", json={"name": "y"}), 409, "key_revoked")


async def test_changed_roles_and_limits_hold_for_the_next_request(api: Clients) -> None:
    key = (await api.admin.post("/keys", json={"name": "x", "role": "analyst"})).json()
    mine = bearer(key["key"])
    assert_problem(await api.anonymous.post("/users", headers=mine, json={}), 403, "forbidden")
    changed = await api.admin.patch(
        f"/keys/{key['id']}", json={"name": "y", "roles": ["integrator", "analyst"], "rate_limit": 7}
    )
    assert changed.status_code == 200
    found = {name: changed.json()[name] for name in ("name", "role", "roles", "rate_limit")}
    assert found == {"name": "y", "role": None, "roles": ["analyst", "integrator"], "rate_limit": 7}

    written = await api.anonymous.post("/users", headers=mine, json=user())
    assert written.status_code == 201
    assert written.headers["ratelimit-policy"] == '"default";q=7;w=60'
    read = await api.anonymous.get("/users/u-1", headers=mine)
    assert read.json()["email"] == "u**@e******.com", "two masked roles stay masked"
    (row, *_) = (await api.admin.get("/audit", params={"actor": key["id"]})).json()["data"]
    assert (row["role"], row["details"]["masked"]) == ("analyst,integrator", True)

    limit = await api.admin.patch(f"/keys/{key['id']}", json={"rate_limit": None})
    assert (limit.json()["rate_limit"], limit.json()["name"]) == (None, "y")
    await api.admin.patch(f"/keys/{key['id']}", json={"role": "admin"})
    assert (await api.anonymous.get("/users/u-1", headers=mine)).json()["email"] == "u-1@example.com"


async def test_one_role_that_sees_people_unmasked_lifts_the_masks(api: Clients) -> None:
    await api.admin.post("/users", json=user())
    key = (await api.admin.post("/keys", json={"name": "x", "roles": ["integrator", "admin"]})).json()
    read = await api.anonymous.get("/users/u-1", headers=bearer(key["key"]))
    assert read.json()["email"] == "u-1@example.com"


async def test_the_last_admin_key_keeps_its_role(api: Clients, owner: Connection) -> None:
    first = (await api.admin.get("/keys")).json()["data"]
    own = next(key["id"] for key in first if key["name"] == "test admin")
    assert_problem(await api.admin.patch(f"/keys/{own}", json={"role": "analyst"}), 409, "last_admin_key")
    assert (await api.admin.patch(f"/keys/{own}", json={"roles": ["analyst", "admin"]})).status_code == 200


async def test_the_list_of_keys_is_paginated(api: Clients) -> None:
    for number in range(3):
        await api.admin.post("/keys", json={"name": f"k{number}", "role": "analyst"})
    found: list[str] = []
    cursor = None
    while True:
        page = (await api.admin.get("/keys", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        found += [each["name"] for each in page["data"]]
        cursor = page["pagination"]["next_cursor"]
        if cursor is None:
            break
    assert sorted(found) == sorted(["k0", "k1", "k2", *(f"test {role}" for role in Role)])
    assert found[-3:] == ["k0", "k1", "k2"]


def test_a_key_has_a_prefix_randomness_and_a_check_sum() -> None:
    secrets = {api_keys.new_secret() for _ in range(100)}
    assert len(secrets) == 100
    for secret in secrets:
        assert secret.startswith("prn_")
        assert len(secret) == 4 + 30 + 6
        assert api_keys.well_formed(secret)
        assert not api_keys.well_formed(secret[:-1])
        assert not api_keys.well_formed(secret + "0")
        assert not api_keys.well_formed(secret.swapcase())


async def test_the_last_admin_key_can_not_be_revoked(api: Clients, owner: Connection) -> None:
    for key in (await api.admin.get("/keys")).json()["data"]:
        assert not key["revoked_at"]
    first = (await api.admin.get("/keys")).json()["data"]
    own = next(key["id"] for key in first if key["name"] == "test admin")
    await owner.execute("UPDATE api_keys SET revoked_at = now() WHERE 'admin' = ANY(roles) AND key_id <> $1", own)
    assert_problem(await api.admin.delete(f"/keys/{own}"), 409, "last_admin_key")
    assert_problem(await api.admin.delete(f"/keys/{own}"), 409, "last_admin_key")
    other = (await api.admin.post("/keys", json={"name": "other", "role": "admin"})).json()
    assert (await api.admin.delete(f"/keys/{own}")).status_code == 204
    again = await api.admin.delete(f"/keys/{own}", headers=bearer(other["key"]))
    assert again.status_code == 204, "a second revocation changes nothing"


async def test_of_two_revocations_at_once_one_admin_key_remains(api: Clients, database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("UPDATE api_keys SET revoked_at = now() WHERE 'admin' = ANY(roles)")
        keys = [(await api_keys.create(connection, f"k-{number}", [Role.ADMIN]))[0] for number in range(2)]

    async def revoke(key_id: str) -> None:
        async with database.transaction() as connection:
            await api_keys.revoke(connection, key_id)

    outcomes = await asyncio.gather(*(revoke(key.key_id) for key in keys), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["LastAdminKeyError", "NoneType"]
