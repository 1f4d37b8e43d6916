"""`POST /users/batch`: each item is validated on its own, and batches may overlap."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from runtime.database import Database
from tests.support.builders import collected, user
from tests.support.http import Clients, field_errors


async def batch(api: Clients, *users: Any) -> dict[str, Any]:
    """The answer to a batch that is accepted."""
    response = await api.integrator.post("/users/batch", json={"users": list(users)})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def errors_of(result: dict[str, Any]) -> set[tuple[str, str]]:
    """The (pointer, code) pairs of a rejected item."""
    assert result["status"] == "rejected"
    return {(error["pointer"], error["code"]) for error in result["errors"]}


async def test_a_batch_creates_and_updates(api: Clients) -> None:
    await api.admin.post("/users", json=user("b"))
    answer = await batch(api, user("a"), {"user_id": "b", "name": "Changed"}, user("c"))
    assert (answer["created"], answer["updated"], answer["rejected"]) == (2, 1, 0)
    assert [result["status"] for result in answer["results"]] == ["created", "updated", "created"]
    assert [result["index"] for result in answer["results"]] == [0, 1, 2]
    assert [result["user_id"] for result in answer["results"]] == ["a", "b", "c"]
    assert all(result["errors"] == [] for result in answer["results"])
    assert (await api.admin.get("/users/b")).json()["name"] == "Changed"
    assert (await api.admin.get("/users/c")).json()["email"] == "c@example.com"


async def test_a_second_run_changes_nothing(api: Clients) -> None:
    users = [collected(f"u-{number}", city="Berlin", age=30) for number in range(20)]
    await batch(api, *users)
    before = (await api.admin.get("/users")).json()
    answer = (await api.admin.post("/users/batch", json={"users": users})).json()
    assert (answer["created"], answer["updated"], answer["unchanged"]) == (0, 20, 20)
    assert all(result["changed"] is False for result in answer["results"])
    assert (await api.admin.get("/users")).json() == before


async def test_a_rejected_item_does_not_affect_the_others(api: Clients) -> None:
    answer = await batch(
        api,
        user("a"),
        user("b") | {"email": "nope", "extra": 1},
        "not an object",
        None,
        {"name": "nobody"},
        user("anonymous"),
        user("d", demographics={"city": "Berlin"}),
        {"user_id": "e", "name": "Incomplete"},
        user("f"),
    )
    results = answer["results"]
    assert (answer["created"], answer["updated"], answer["rejected"]) == (2, 0, 7)
    assert errors_of(results[1]) == {("/users/1/email", "invalid_email"), ("/users/1/extra", "unknown_field")}
    assert results[1]["user_id"] == "b"
    assert errors_of(results[2]) == {("/users/2", "invalid_type")}
    assert errors_of(results[3]) == {("/users/3", "required")}
    assert errors_of(results[4]) == {("/users/4/user_id", "required")}
    assert errors_of(results[5]) == {("/users/5/user_id", "user_id_reserved")}
    assert [results[index]["user_id"] for index in (2, 3, 4, 5)] == [None] * 4
    assert errors_of(results[6]) == {("/users/6/demographics", "consent_required")}
    assert errors_of(results[7]) == {
        (f"/users/7/{name}", "required") for name in ("email", "signup_date", "account_status", "lifecycle_stage")
    }
    assert [each["user_id"] for each in (await api.admin.get("/users")).json()["data"]] == ["a", "f"]


async def test_items_for_one_user_are_applied_in_order(api: Clients) -> None:
    answer = await batch(api, user("a"), {"user_id": "a", "name": "Second"}, {"user_id": "a", "name": "Third"})
    assert [result["status"] for result in answer["results"]] == ["created", "updated", "updated"]
    assert (await api.admin.get("/users/a")).json()["name"] == "Third"


async def test_a_rejected_item_does_not_block_a_later_one_for_the_same_user(api: Clients) -> None:
    answer = await batch(api, {"user_id": "a", "name": "Incomplete"}, user("a"))
    assert [result["status"] for result in answer["results"]] == ["rejected", "created"]


@pytest.mark.parametrize(
    ("document", "errors"),
    [
        ({}, {("/users", "required")}),
        ({"users": None}, {("/users", "required")}),
        ({"users": []}, {("/users", "too_short")}),
        ({"users": {}}, {("/users", "invalid_type")}),
        ({"users": [{}] * 1001}, {("/users", "too_long")}),
        ({"users": [{}], "dry_run": True}, {("/dry_run", "unknown_field")}),
    ],
)
async def test_the_body_around_the_items_is_validated(
    api: Clients, document: dict[str, Any], errors: set[tuple[str, str]]
) -> None:
    assert field_errors(await api.integrator.post("/users/batch", json=document)) == errors


async def test_a_thousand_profiles_take_less_than_three_seconds(api: Clients) -> None:
    users = [
        collected(f"u-{n}", city="Berlin", age=30, country="DE", timezone="Europe/Berlin", language="de")
        for n in range(1000)
    ]
    async with asyncio.timeout(3):  # one second is the goal on an idle machine
        assert (await batch(api, *users))["created"] == 1000


async def test_overlapping_batches_neither_deadlock_nor_fail(api: Clients, database: Database) -> None:
    """Eight at a time, in different orders, with the same new and existing users."""
    chance = random.Random(7)
    await batch(api, *(user(f"u-{number}") for number in range(0, 60, 2)))
    answers = []
    for _ in range(3):
        batches = []
        for mark in range(8):
            ids = [f"u-{number}" for number in range(60)]
            chance.shuffle(ids)
            batches.append([user(user_id, name=f"Name {mark}") for user_id in ids[:50]])
        answers += await asyncio.gather(*(batch(api, *users) for users in batches))
    assert sum(answer["rejected"] for answer in answers) == 0
    assert sum(answer["created"] for answer in answers) == 30
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM users") == 60
        assert await connection.fetchval("SELECT count(*) FROM data_keys") == 60


async def test_one_of_several_concurrent_creates_succeeds(api: Clients) -> None:
    responses = await asyncio.gather(
        *(api.admin.post("/users", json=user("u-1", name=f"Name {n}")) for n in range(12))
    )
    assert sorted(response.status_code for response in responses) == [201] + [409] * 11


async def test_concurrent_patches_are_all_applied(api: Clients) -> None:
    await api.admin.post("/users", json=collected("u-1", age=1))
    patches = [{"name": "New"}, {"demographics": {"city": "Bonn"}}, {"demographics": {"country": "FR"}}]
    patches += [{"consents": {"marketing": True}}, {"transactions": {"subscription_tier": "pro"}}]
    await asyncio.gather(*(api.admin.patch("/users/u-1", json=patch) for patch in patches))
    profile = (await api.admin.get("/users/u-1")).json()
    assert profile["name"] == "New"
    assert (profile["demographics"]["city"], profile["demographics"]["country"]) == ("Bonn", "FR")
    assert profile["consents"]["marketing"] is True
    assert profile["transactions"]["subscription_tier"] == "pro"


async def test_an_item_that_can_not_be_stored_does_not_affect_the_others(api: Clients) -> None:
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    answer = await batch(api, user("a"), user("b", name="Ada\u0000"), user("c", demographics=deep), user("d"))
    assert [result["status"] for result in answer["results"]] == ["created", "rejected", "rejected", "created"]
    assert errors_of(answer["results"][1]) == {("/users/1/name", "invalid_characters")}
    assert errors_of(answer["results"][2]) == {("/users/2", "too_deep")}
    assert [result["user_id"] for result in answer["results"]] == ["a", "b", "c", "d"]


async def test_a_repeated_batch_with_an_unusable_item_gets_the_same_answer(api: Clients) -> None:
    users, key = [user("a"), user("b", name="\u0000")], {"Idempotency-Key": "k"}
    first, second = [await api.integrator.post("/users/batch", json={"users": users}, headers=key) for _ in "12"]
    assert (first.status_code, first.content) == (second.status_code, second.content)
    other = [user("a"), user("b", name="\u0000\u0000")]
    third = await api.integrator.post("/users/batch", json={"users": other}, headers=key)
    assert (third.status_code, third.json()["code"]) == (422, "idempotency_key_reused")
