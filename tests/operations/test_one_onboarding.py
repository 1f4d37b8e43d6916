"""An account has one onboarding, by an event or a request, unless a request asks for another."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from runtime.database import Database
from store.connection import Connection
from tests.support.builders import user
from tests.support.http import assert_problem

EXECUTE = "/workflows/onboarding/execute"
INSTANCES = "/workflows/onboarding/instances"
ROUNDS = 6


@pytest.fixture(autouse=True)
async def stored(two: list[httpx.AsyncClient]) -> None:
    await two[0].post("/users", json=user(consents={"data_collection": True}))


async def _execute(
    client: httpx.AsyncClient, headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    return await client.post(EXECUTE, json={"user_id": "u-1", **body}, headers=headers)


async def _sign_up(client: httpx.AsyncClient) -> None:
    event_id = uuid.uuid4().hex
    event = {
        "event_id": event_id,
        "user_id": "u-1",
        "event_type": "user.signup",
        "timestamp": datetime.now(UTC).isoformat(),
        "session_id": event_id,
    }
    assert (await client.post("/events", json=event)).status_code == 202


async def _projected(connection: Connection, events: int) -> None:
    """Wait until so many events are projected, and the outbox is empty."""
    settled = "SELECT (SELECT count(*) FROM sessions) = $1 AND (SELECT count(*) FROM temporal_outbox) = 0"
    async with asyncio.timeout(60):
        while not await connection.fetchval(settled, events):
            await asyncio.sleep(0.02)


async def _paths(client: httpx.AsyncClient) -> list[str]:
    return [f"{INSTANCES}/{each['instance_id']}" for each in (await client.get(INSTANCES)).json()["data"]]


async def _end(client: httpx.AsyncClient) -> None:
    for path in await _paths(client):
        await client.delete(path)


async def test_two_sign_ups_begin_one_onboarding(two: list[httpx.AsyncClient], database: Database) -> None:
    await asyncio.gather(*(_sign_up(two[number % 2]) for number in range(5)))
    async with database.connection() as connection:
        await _projected(connection, 5)
    assert len(await _paths(two[0])) == 1
    await _sign_up(two[0])
    async with database.connection() as connection:
        await _projected(connection, 6)
    [path] = await _paths(two[0])
    answer = await _execute(two[1])
    assert_problem(answer, 409, "already_running")
    assert answer.headers["location"] == path
    await _end(two[0])


async def test_a_sign_up_after_a_request_begins_none_also_once_it_has_ended(
    two: list[httpx.AsyncClient], database: Database
) -> None:
    path = (await _execute(two[0])).headers["location"]
    await _sign_up(two[1])
    async with database.connection() as connection:
        await _projected(connection, 1)
    assert await _paths(two[0]) == [path]
    await two[0].delete(path)
    async with asyncio.timeout(60):
        while (await two[0].get(path)).json()["status"] != "cancelled":
            await asyncio.sleep(0.02)
    answer = await _execute(two[1])
    assert_problem(answer, 409, "already_run")
    assert answer.headers["location"] == path
    await _sign_up(two[1])
    async with database.connection() as connection:
        await _projected(connection, 2)
        assert await _paths(two[0]) == [path]
        await connection.execute("DELETE FROM instances")  # as retention does
    answer = await _execute(two[1], {"Prefer": "return=existing"})
    assert_problem(answer, 409, "already_run")
    assert "location" not in answer.headers


async def test_a_request_may_ask_for_the_existing_one_or_for_another(two: list[httpx.AsyncClient]) -> None:
    path = (await _execute(two[0], {"Prefer": "return=existing"})).headers["location"]
    existing = await _execute(two[1], {"Prefer": "wait=1, return=existing"})
    assert (existing.status_code, existing.headers["location"]) == (200, path)
    assert existing.headers["preference-applied"] == "return=existing"
    assert existing.json()["instance_id"] == path.rsplit("/", 1)[1]
    again = await _execute(two[1], again=True)
    assert again.status_code == 202
    assert again.headers["location"] != path
    assert_problem(await _execute(two[0], again=False), 409, "already_running")
    assert_problem(await _execute(two[0], again="yes"), 422, "validation_failed")
    await _end(two[0])


async def test_a_repeated_request_with_its_idempotency_key_gets_its_answer(two: list[httpx.AsyncClient]) -> None:
    key = {"Idempotency-Key": "k-1"}
    first, second = [await _execute(client, key) for client in two]
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["instance_id"] == second.json()["instance_id"]
    await _end(two[0])


async def test_a_request_for_another_account_or_workflow_is_free(two: list[httpx.AsyncClient]) -> None:
    await _execute(two[0])
    await two[0].post("/users", json=user("u-2"))
    assert (await two[0].post(EXECUTE, json={"user_id": "u-2"})).status_code == 202
    for _ in range(2):
        other = await two[0].post("/workflows/post_purchase/execute", json={"user_id": "u-1", "again": True})
        assert other.status_code == 202
        await two[0].delete(other.headers["location"])
    await _end(two[0])
    listed = {each["workflow_id"]: each["once"] for each in (await two[0].get("/workflows")).json()["data"]}
    assert {name for name, once in listed.items() if once} == {"onboarding"}


async def test_of_requests_and_sign_ups_at_once_exactly_one_begins(
    two: list[httpx.AsyncClient], database: Database
) -> None:
    for number in range(ROUNDS):
        async with database.connection() as connection:
            await connection.execute("DELETE FROM trigger_windows; DELETE FROM instances; DELETE FROM sessions")
            answers = await asyncio.gather(
                *(_execute(two[each % 2]) for each in range(6)), *(_sign_up(two[each % 2]) for each in range(3))
            )
            await _projected(connection, 3)
            assert await connection.fetchval("SELECT count(*) FROM instances") == 1, number
        statuses = [answer.status_code for answer in answers if answer is not None]
        assert set(statuses) <= {202, 409}
        assert statuses.count(202) <= 1


async def test_an_instance_that_never_started_leaves_the_account_free(
    two: list[httpx.AsyncClient], database: Database
) -> None:
    """The API died before it reached Temporal, and the reconciler has ended the row."""
    path = (await _execute(two[0])).headers["location"]
    await _end(two[0])
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE instances SET status = 'failed', end_time = now(), run_id = NULL, reason = 'not_started'"
        )
    again = await _execute(two[1])
    assert again.status_code == 202
    assert again.headers["location"] != path
    await _end(two[0])
