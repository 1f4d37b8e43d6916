"""`Idempotency-Key`: a repeated request happens once and gets the first answer again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from models.errors import UserErasedError
from privacy.encryption import Cipher
from runtime.database import Database
from store import idempotency
from store.connection import Connection
from store.idempotency import StoredAnswer
from tests.support.builders import collected, user
from tests.support.http import Clients, assert_problem

KEY = {"Idempotency-Key": "request-1"}


async def test_a_repeated_request_gets_the_first_answer(api: Clients) -> None:
    first = await api.admin.post("/users", json=user(), headers=KEY)
    again = await api.admin.post("/users", json=user(), headers=KEY)
    assert first.status_code == again.status_code == 201
    assert again.content == first.content
    for name in ("location", "etag", "content-type"):
        assert again.headers[name] == first.headers[name]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]


async def test_a_repeated_request_gets_the_first_answer_after_a_later_change(api: Clients) -> None:
    first = await api.admin.post("/users", json=user(), headers=KEY)
    await api.admin.patch("/users/u-1", json={"name": "Changed"})
    assert (await api.admin.post("/users", json=user(), headers=KEY)).content == first.content


async def test_the_order_of_names_and_the_spacing_do_not_matter(api: Clients) -> None:
    document = user()
    first = await api.admin.post("/users", json=document, headers=KEY)
    turned = dict(reversed(document.items()))
    assert (await api.admin.post("/users", json=turned, headers=KEY)).content == first.content


async def test_the_key_is_rejected_for_another_request(api: Clients) -> None:
    await api.admin.post("/users", json=user(), headers=KEY)
    other = await api.admin.post("/users", json=user("u-2"), headers=KEY)
    assert_problem(other, 422, "idempotency_key_reused")
    other = await api.admin.post("/users/batch", json={"users": [user()]}, headers=KEY)
    assert_problem(other, 422, "idempotency_key_reused")


async def test_an_idempotency_key_belongs_to_its_api_key(api: Clients) -> None:
    await api.admin.post("/users", json=user(), headers=KEY)
    assert (await api.integrator.post("/users", json=user("u-2"), headers=KEY)).status_code == 201


async def test_errors_are_not_kept(api: Clients) -> None:
    document = user(demographics={"city": "Berlin"})
    assert_problem(await api.admin.post("/users", json=document, headers=KEY), 403, "consent_required")
    assert (await api.admin.post("/users", json=user(), headers=KEY)).status_code == 201


async def test_a_repeated_batch_gets_the_first_answer_and_changes_nothing(api: Clients) -> None:
    document = {"users": [user("a"), {"user_id": "b"}]}
    first = await api.integrator.post("/users/batch", json=document, headers=KEY)
    await api.admin.patch("/users/a", json={"name": "Changed"})
    again = await api.integrator.post("/users/batch", json=document, headers=KEY)
    assert again.content == first.content
    assert (await api.admin.get("/users/a")).json()["name"] == "Changed"


async def test_concurrent_repetitions_happen_once_and_get_the_same_answer(api: Clients) -> None:
    answers = await asyncio.gather(*(api.admin.post("/users", json=user(), headers=KEY) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1


@pytest.mark.parametrize("value", ["", "x" * 256, "schl\u00fcssel", "a\tb"])
async def test_a_malformed_key_is_rejected(api: Clients, value: str) -> None:
    headers = [(b"Idempotency-Key", value.encode("latin-1"))]
    answer = await api.admin.post("/users", json=user(), headers=headers)
    assert_problem(answer, 400, "invalid_idempotency_key")


async def test_two_keys_are_rejected(api: Clients) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert_problem(await api.admin.post("/users", json=user(), headers=headers), 400, "invalid_idempotency_key")


async def test_an_answer_expires_after_a_day(api: Clients, owner: Connection) -> None:
    await api.admin.post("/users", json=user(), headers=KEY)
    await owner.execute("UPDATE idempotent_answers SET created_at = now() - interval '25 hours'")
    assert_problem(await api.admin.post("/users", json=user(), headers=KEY), 409, "user_exists")
    assert (await api.admin.post("/users", json=user("u-2"), headers=KEY)).status_code == 201


async def test_a_kept_answer_is_encrypted_and_is_410_after_an_erasure(api: Clients, owner: Connection) -> None:
    await api.admin.post("/users", json=user(name="Canary Lovelace"), headers=KEY)
    row = await owner.fetchrow("SELECT * FROM idempotent_answers")
    assert row is not None
    assert b"Canary" not in row["body"]
    assert KEY["Idempotency-Key"] not in str(row), "callers may make it of anything"
    assert row["subject"] == "u-1"
    await owner.execute("UPDATE data_keys SET wrapped = NULL, destroyed_at = now() WHERE subject = 'u-1'")
    again = await api.admin.post("/users", json=user(name="Canary Lovelace"), headers=KEY)
    assert_problem(again, 410, "user_erased")


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("PATCH", "/users/u-1", {"privacy_preferences": {"city": False}}),
        ("PATCH", "/users/u-1", {"demographics": {"city": None}}),
        ("PATCH", "/users/u-1", {"demographics": None}),
        ("POST", "/users/batch", {"users": [{"user_id": "u-1", "privacy_preferences": {"city": False}}]}),
    ],
)
async def test_a_refused_attribute_goes_from_the_stored_answer_too(
    api: Clients, owner: Connection, method: str, path: str, content: Any
) -> None:
    document = collected(city="Berlin")
    first = await api.admin.post("/users", json=document, headers=KEY)
    by_integrator = await api.integrator.post("/users/batch", json={"users": [document]}, headers=KEY)
    assert first.json()["demographics"]["city"] == "Berlin"
    assert (await api.admin.request(method, path, json=content)).status_code == 200
    assert await owner.fetchval("SELECT body FROM idempotent_answers WHERE subject = 'u-1'") is None
    again = await api.admin.post("/users", json=document, headers=KEY)
    assert (again.status_code, again.headers["location"]) == (201, first.headers["location"])
    assert again.headers["idempotency-replayed"] == "true"
    present = await api.admin.get("/users/u-1")
    assert again.json() == present.json()
    assert again.json()["demographics"]["city"] is None
    assert again.headers["etag"] == present.headers["etag"]
    other = await api.admin.post("/users", json=document | {"name": "Other"}, headers=KEY)
    assert_problem(other, 422, "idempotency_key_reused")
    same = await api.integrator.post("/users/batch", json={"users": [document]}, headers=KEY)
    assert same.content == by_integrator.content


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("DELETE", "/users/u-1/consents/data_collection", None),
        ("PUT", "/users/u-1/consents/data_collection", {"granted": False}),
        (
            "POST",
            "/consents/batch",
            {"consents": [{"user_id": "u-1", "purpose": "data_collection", "granted": False}]},
        ),
        ("PATCH", "/users/u-1", {"consents": {"data_collection": False}}),
        ("PATCH", "/users/u-1", {"consents": None}),
    ],
)
async def test_a_withdrawal_deletes_the_persons_stored_answers_alone(
    api: Clients, owner: Connection, method: str, path: str, content: Any
) -> None:
    document = collected(city="Berlin")
    await api.admin.post("/users", json=document, headers=KEY)
    other = await api.admin.post("/users", json=user("u-2"), headers={"Idempotency-Key": "2"})
    assert (await api.admin.request(method, path, json=content)).status_code == 200
    again = await api.admin.post("/users", json=document, headers=KEY)
    assert (again.status_code, again.json()["consents"]["data_collection"]) == (201, False)
    assert (
        await owner.fetchval("SELECT string_agg(subject, ' ') FROM idempotent_answers WHERE body IS NOT NULL")
        == "u-2"
    )
    kept = await api.admin.post("/users", json=user("u-2"), headers={"Idempotency-Key": "2"})
    assert kept.content == other.content
    await owner.execute("UPDATE data_keys SET wrapped = NULL, destroyed_at = now() WHERE subject = 'u-1'")
    assert_problem(await api.admin.post("/users", json=document, headers=KEY), 410, "user_erased")


async def claim_with(database: Database, cipher: Cipher, **changes: Any) -> idempotency.Claim:
    """A claim in a transaction of its own."""
    arguments: dict[str, Any] = {"key_id": "key_1", "idempotency_key": "k", "fingerprint": b"f"}
    async with database.transaction() as connection:
        return await idempotency.claim(connection, cipher, **{**arguments, **changes})


async def test_a_retry_between_the_two_transactions_gets_the_same_token(
    database: Database, cipher: Cipher
) -> None:
    first = await claim_with(database, cipher)
    again = await claim_with(database, cipher)
    assert first.replay is again.replay is None
    assert first.token == again.token
    assert first.token != (await claim_with(database, cipher, idempotency_key="other")).token
    assert first.token != (await claim_with(database, cipher, key_id="key_2")).token


async def test_the_first_of_two_answers_is_kept(database: Database, cipher: Cipher) -> None:
    claims = [await claim_with(database, cipher) for _ in range(2)]
    for number, held in enumerate(claims):
        async with database.transaction() as connection:
            answer = StoredAnswer(202, {"location": "/x"}, b"answer %d" % number)
            await idempotency.keep(connection, cipher, held, answer, subject=None)
    kept = await claim_with(database, cipher)
    assert kept.replay == StoredAnswer(202, {"location": "/x"}, b"answer 0")


async def test_an_answer_about_an_unknown_user_is_not_kept(database: Database, cipher: Cipher) -> None:
    held = await claim_with(database, cipher)
    async with database.connection() as connection:
        with pytest.raises(UserErasedError):
            await idempotency.keep(connection, cipher, held, StoredAnswer(202, {}, b"x"), subject="u-none")


async def test_a_waiting_request_does_the_work_if_the_claim_is_rolled_back(
    database: Database, cipher: Cipher
) -> None:
    async with database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        held = await idempotency.claim(connection, cipher, key_id="key_1", idempotency_key="k", fingerprint=b"f")
        waiting = asyncio.create_task(claim_with(database, cipher, fingerprint=b"other"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await transaction.rollback()
    claimed = await waiting
    assert claimed.replay is None
    assert claimed.token != held.token
