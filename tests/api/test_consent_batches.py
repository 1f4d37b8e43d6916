"""`POST /consents/batch`: results per item, the same rules as for single consents, and withdrawals that stay."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from models.vocabulary import Purpose, Role
from runtime.database import Database
from store.connection import Connection
from tests.support.builders import user
from tests.support.http import Clients, assert_problem, field_errors
from tests.support.locks import until_blocked

PATH = "/consents/batch"
GRANT: dict[str, Any] = {
    "granted": True,
    "source": "signup_form",
    "policy_version": "2026-01",
    "legal_basis": "consent",
}
WITHDRAWAL: dict[str, Any] = {
    "granted": False,
    "source": "web_form",
    "policy_version": None,
    "legal_basis": "consent",
}


def item(user_id: str, purpose: str = "marketing", **fields: Any) -> dict[str, Any]:
    return {"user_id": user_id, "purpose": purpose, **(fields or GRANT)}


async def people(api: Clients, count: int) -> None:
    users = [user(f"u-{number}") for number in range(1, count + 1)]
    assert (await api.admin.post("/users/batch", json={"users": users})).status_code == 200


async def sent(client: httpx.AsyncClient, *items: Any, keep: tuple[str, ...] = ()) -> dict[str, Any]:
    answer = await client.post(PATH, json={"consents": items}, params={"keep_recorded": keep})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def statuses(answer: Mapping[str, Any]) -> list[str]:
    return [each["status"] for each in answer["results"]]


async def history(api: Clients, user_id: str = "u-1") -> list[tuple[Any, ...]]:
    entries = (await api.admin.get(f"/users/{user_id}/consents/history")).json()["data"]
    names = ("purpose", "granted", "source", "policy_version", "legal_basis")
    return [tuple(entry[name] for name in names) for entry in entries]


async def test_each_item_has_a_result_and_a_bad_one_does_not_affect_the_others(
    api: Clients, owner: Connection
) -> None:
    await people(api, 3)
    await owner.execute("UPDATE data_keys SET wrapped = NULL, destroyed_at = now() WHERE subject = 'u-3'")
    answer = await sent(
        api.integrator,
        item("u-1"),
        item("u-1"),
        item("u-2", "selling"),
        item("u-nobody"),
        item("u-3"),
        item("someone@example.com"),
        {"user_id": "u-2"},
        item("u-2", granted=True, source="a\x00b"),
        "marketing",
        item("u-2", granted=True),
        item("u-2", granted="yes", more=1),
    )
    assert {name: answer[name] for name in ("changed", "unchanged", "rejected")} == {
        "changed": 2,
        "unchanged": 1,
        "rejected": 8,
    }
    shown = [
        (each["index"], each["user_id"], each["purpose"], each["status"], _errors(each))
        for each in answer["results"]
    ]
    assert shown == [
        (0, "u-1", "marketing", "changed", []),
        (1, "u-1", "marketing", "unchanged", []),
        (2, "u-2", None, "rejected", ["/consents/2/purpose invalid_choice"]),
        (3, "u-nobody", "marketing", "rejected", ["/consents/3/user_id user_unknown"]),
        (4, "u-3", "marketing", "rejected", ["/consents/4/user_id user_erased"]),
        (5, None, "marketing", "rejected", ["/consents/5/user_id user_id_is_personal"]),
        (6, "u-2", None, "rejected", ["/consents/6/granted required", "/consents/6/purpose required"]),
        (7, "u-2", "marketing", "rejected", ["/consents/7/source invalid_characters"]),
        (8, None, None, "rejected", ["/consents/8 invalid_type"]),
        (9, "u-2", "marketing", "changed", []),
        (
            10,
            "u-2",
            "marketing",
            "rejected",
            ["/consents/10/granted invalid_type", "/consents/10/more unknown_field"],
        ),
    ]
    assert await history(api) == [("marketing", *GRANT.values())]
    assert await history(api, "u-2") == [("marketing", True, "api", None, "consent")]
    assert await owner.fetchval("SELECT count(*) FROM consents") == 2


def _errors(result: Mapping[str, Any]) -> list[str]:
    return sorted(f"{error['pointer']} {error['code']}" for error in result["errors"])


async def test_items_of_one_person_apply_in_order(api: Clients) -> None:
    await people(api, 1)
    items = [
        item("u-1"),
        item("u-1", **WITHDRAWAL),
        item("u-1", "profiling"),
        item("u-1", **WITHDRAWAL),
        item("u-1", **GRANT),
        item("u-1", **GRANT | {"policy_version": "2026-02"}),
    ]
    before = (await api.admin.get("/users/u-1")).headers["etag"]
    assert statuses(await sent(api.admin, *items)) == [*["changed"] * 3, "unchanged", *["changed"] * 2]
    assert [entry[:4] for entry in await history(api)] == [
        ("marketing", True, "signup_form", "2026-01"),
        ("marketing", False, "web_form", None),
        ("profiling", True, "signup_form", "2026-01"),
        ("marketing", True, "signup_form", "2026-01"),
        ("marketing", True, "signup_form", "2026-02"),
    ]
    consents = (await api.admin.get("/users/u-1/consents")).json()["consents"]
    assert consents == dict.fromkeys(Purpose, False) | {"marketing": True, "profiling": True}
    assert (await api.admin.get("/users/u-1")).headers["etag"] != before


async def test_a_batch_leaves_the_same_records_as_single_requests(api: Clients, owner: Connection) -> None:
    await people(api, 2)
    said = [GRANT, GRANT, WITHDRAWAL, WITHDRAWAL, WITHDRAWAL | {"source": "phone"}, GRANT]
    for body in said:
        await api.integrator.put("/users/u-1/consents/marketing", json=body)
        await sent(api.integrator, item("u-2", **body))
    assert await history(api, "u-1") == await history(api, "u-2")
    rows = await owner.fetch("SELECT DISTINCT version, granted FROM users JOIN consents USING (user_id)")
    assert len(rows) == 1


@pytest.mark.parametrize("route", ["consents", "users"])
async def test_a_withdrawal_stays_for_the_purposes_that_the_request_names(api: Clients, route: str) -> None:
    await people(api, 3)
    await sent(api.admin, item("u-1"), item("u-1", "profiling"))
    for purpose in ("marketing", "profiling"):
        await api.admin.delete(f"/users/u-1/consents/{purpose}")
    await sent(api.admin, item("u-2", **WITHDRAWAL))  # a refusal before any grant
    before = {user_id: await history(api, user_id) for user_id in ("u-1", "u-2")}

    async def grant(*keep: str) -> list[bool]:
        if route == "consents":
            items = [
                item(f"u-{number}", purpose) for number in (1, 2, 3) for purpose in ("marketing", "profiling")
            ]
            await sent(api.integrator, *items, keep=keep)
        else:
            given = {"marketing": True, "profiling": True}
            users = [{"user_id": f"u-{number}", "name": "New", "consents": given} for number in (1, 2, 3)]
            answer = await api.integrator.post(
                "/users/batch", json={"users": users}, params={"keep_recorded": keep}
            )
            assert [each["status"] for each in answer.json()["results"]] == ["updated"] * 3
            assert (await api.admin.get("/users/u-1")).json()["name"] == "New"
        found = [(await api.admin.get(f"/users/u-{number}/consents")).json()["consents"] for number in (1, 2, 3)]
        return [each[purpose] for each in found for purpose in ("marketing", "profiling")]

    assert await grant("marketing", "profiling") == [False, False, False, True, True, True]
    assert await history(api, "u-1") == before["u-1"]
    assert len(await history(api, "u-2")) == len(before["u-2"]) + 1
    unchanged = item("u-3", **GRANT | {"policy_version": "1997"})
    assert statuses(await sent(api.admin, unchanged, keep=("marketing",))) == ["unchanged"]
    assert await grant("profiling") == [True, False, True, True, True, True]
    assert await grant() == [True] * 6


async def test_an_integrator_is_not_told_about_a_withdrawal(api: Clients) -> None:
    await people(api, 2)
    await sent(api.admin, item("u-1"), item("u-2", **WITHDRAWAL))
    answer = await sent(api.integrator, item("u-1"), item("u-2"), keep=("marketing",))
    first, second = answer["results"]
    assert first | {"index": 1, "user_id": "u-2"} == second
    assert first["status"] == "unchanged"


async def test_a_withdrawal_applies_for_the_purposes_that_stay_too(api: Clients) -> None:
    await people(api, 1)
    items = [item("u-1"), item("u-1", **WITHDRAWAL), item("u-1"), item("u-1", **WITHDRAWAL | {"source": "x"})]
    answer = await sent(api.admin, *items, keep=("marketing",))
    assert statuses(answer) == ["changed", "changed", "unchanged", "changed"]


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"consents": []}, "/consents", "too_short"),
        ({"consents": [item("u-1")] * 1001}, "/consents", "too_long"),
        ({}, "/consents", "required"),
        ({"consents": {}}, "/consents", "invalid_type"),
        ({"consents": [item("u-1")], "more": 1}, "/more", "unknown_field"),
    ],
)
async def test_a_batch_has_1_to_1000_items(api: Clients, body: Any, pointer: str, code: str) -> None:
    assert field_errors(await api.integrator.post(PATH, json=body)) == {(pointer, code)}
    assert statuses(await sent(api.integrator, *[item("u-1")] * 1000)) == ["rejected"] * 1000


async def test_an_unknown_purpose_that_stays_is_rejected(api: Clients) -> None:
    answer = await api.admin.post(PATH, json={"consents": [item("u-1")]}, params={"keep_recorded": "selling"})
    assert field_errors(answer) == {("/query/keep_recorded/0", "invalid_choice")}


async def test_an_idempotency_key_belongs_to_the_purposes_that_stay(api: Clients) -> None:
    body, headers = {"users": [user()]}, {"Idempotency-Key": "k-1"}
    assert (await api.admin.post("/users/batch", json=body, headers=headers)).status_code == 200
    path = "/users/batch?keep_recorded=marketing"
    assert_problem(await api.admin.post(path, json=body, headers=headers), 422, "idempotency_key_reused")


async def test_roles_are_those_of_single_consents(api: Clients) -> None:
    for role in Role:
        allowed = role in (Role.ADMIN, Role.INTEGRATOR)
        answer = await api.of(role).post(PATH, json={"consents": [item("u-1")]})
        assert answer.status_code == (200 if allowed else 403)


async def test_the_audit_row_names_the_people_and_the_purposes(api: Clients) -> None:
    await people(api, 2)
    await sent(api.integrator, item("u-1"), item("u-2", "profiling"), item("u-nobody"))
    [row] = (await api.admin.get("/audit", params={"user_id": "u-2"})).json()["data"][:1]
    assert (row["action"], row["subjects"], row["fields"]) == (
        "consents.change",
        ["u-1", "u-2"],
        ["marketing", "profiling"],
    )
    assert row["details"] == {"consents": 3, "changed": 2, "unchanged": 0, "rejected": 1}


async def test_a_batch_that_waited_for_an_erasure_rejects_the_item(
    api: Clients, owner: Connection, database: Database
) -> None:
    await people(api, 2)
    async with owner.transaction():
        await owner.execute("SELECT FROM users WHERE user_id = 'u-1' FOR UPDATE")
        waiting = asyncio.create_task(sent(api.integrator, item("u-1"), item("u-2")))
        await until_blocked(database, 1)
        await owner.execute("UPDATE data_keys SET wrapped = NULL, destroyed_at = now() WHERE subject = 'u-1'")
    assert statuses(await waiting) == ["rejected", "changed"]


async def test_overlapping_batches_and_other_withdrawals_never_deadlock(api: Clients, owner: Connection) -> None:
    await people(api, 40)
    numbers, chance = list(range(1, 41)), random.Random(11)
    told = [GRANT, WITHDRAWAL, GRANT | {"policy_version": "2"}, WITHDRAWAL | {"source": "phone"}]

    async def batch() -> None:
        chosen = chance.sample(numbers, 30)
        answer = await sent(api.admin, *(item(f"u-{number}", **chance.choice(told)) for number in chosen))
        assert answer["rejected"] == 0

    async def profiles() -> None:
        chosen = chance.sample(numbers, 30)
        users = [{"user_id": f"u-{number}", "consents": {"marketing": chance.random() < 0.5}} for number in chosen]
        assert (await api.admin.post("/users/batch", json={"users": users})).json()["rejected"] == 0

    async def single() -> None:
        path = f"/users/u-{chance.choice(numbers)}/consents/marketing"
        assert (await api.admin.put(path, json=chance.choice(told))).status_code == 200

    before = await owner.fetchval("SELECT sum(deadlocks) FROM pg_stat_database")
    for _ in range(6):
        await asyncio.gather(*(act() for act in itertools.islice(itertools.cycle((batch, profiles, single)), 12)))
    await asyncio.sleep(1.1)  # sessions report their counts within a second
    assert await owner.fetchval("SELECT sum(deadlocks) FROM pg_stat_database") == before
