"""Keys with two API processes and a worker: one dunning runs for an invoice, by an event or a request."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from runtime.database import Database
from tests.support.builders import user
from tests.support.http import assert_problem, field_errors

EXECUTE = "/workflows/dunning/execute"
INSTANCES = "/workflows/dunning/instances"
ROUNDS = 4


@pytest.fixture(autouse=True)
async def stored(two: list[httpx.AsyncClient]) -> None:
    await two[0].post("/users", json=user(consents={"data_collection": True}))


async def _execute(
    client: httpx.AsyncClient, invoice_id: str | int | None, headers: dict[str, str] | None = None
) -> httpx.Response:
    body = {"user_id": "u-1", "parameters": {} if invoice_id is None else {"invoice_id": invoice_id}}
    return await client.post(EXECUTE, json=body, headers=headers)


async def _send(client: httpx.AsyncClient, event_type: str, **properties: Any) -> str:
    event_id = uuid.uuid4().hex
    event = {
        "event_id": event_id,
        "user_id": "u-1",
        "event_type": event_type,
        "timestamp": datetime.now(UTC).isoformat(),
        "session_id": event_id,
        "event_properties": properties,
    }
    assert (await client.post("/events", json=event)).status_code == 202
    return event_id


async def _fail(client: httpx.AsyncClient, invoice_id: str | int = "in-1") -> str:
    return await _send(client, "billing.payment_failed", invoice_id=invoice_id)


async def _projected(database: Database, events: int) -> None:
    """Wait until so many events are projected, and the outbox is empty."""
    settled = "SELECT (SELECT count(*) FROM sessions) = $1 AND (SELECT count(*) FROM temporal_outbox) = 0"
    async with database.connection() as connection, asyncio.timeout(60):
        while not await connection.fetchval(settled, events):
            await asyncio.sleep(0.02)


async def _until(client: httpx.AsyncClient, path: str, **wanted: Any) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            instance: dict[str, Any] = (await client.get(path)).json()
            if all(instance[name] == value for name, value in wanted.items()):
                return instance
            await asyncio.sleep(0.02)


async def _all(client: httpx.AsyncClient, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get(f"{INSTANCES}?{query}")).json()["data"]
    return found


async def _end(client: httpx.AsyncClient) -> None:
    for each in await _all(client, "status=running"):
        await client.delete(f"{INSTANCES}/{each['instance_id']}")


async def test_of_requests_and_failed_payments_at_once_exactly_one_begins_for_an_invoice(
    two: list[httpx.AsyncClient], database: Database
) -> None:
    for number in range(ROUNDS):
        async with database.connection() as connection:
            await connection.execute("DELETE FROM sessions")
        answers = await asyncio.gather(
            *(_execute(two[each % 2], f"in-{number}") for each in range(6)),
            *(_fail(two[each % 2], f"in-{number}") for each in range(3)),
        )
        await _projected(database, 3)
        [running] = await _all(two[0], "status=running")
        assert running["key"] == {"invoice_id": f"in-{number}"}
        statuses = [answer.status_code for answer in answers if isinstance(answer, httpx.Response)]
        assert set(statuses) <= {202, 409}
        assert statuses.count(202) <= 1
        path = f"{INSTANCES}/{running['instance_id']}"
        for answer in answers:
            if isinstance(answer, httpx.Response) and answer.status_code == 409:
                assert_problem(answer, 409, "already_running")
                assert answer.headers["location"] == path
        await two[0].delete(path)
        await _until(two[0], path, status="cancelled")


async def test_a_second_request_is_refused_or_gets_the_running_instance_until_it_ends(
    two: list[httpx.AsyncClient],
) -> None:
    path = (await _execute(two[0], "in-1")).headers["location"]
    refused = await _execute(two[1], "in-1")
    assert_problem(refused, 409, "already_running")
    assert refused.headers["location"] == path
    assert "again" not in refused.json()["detail"]
    existing = await _execute(two[1], "in-1", {"Prefer": "return=existing"})
    assert (existing.status_code, existing.headers["location"]) == (200, path)
    assert existing.json()["instance_id"] == path.rsplit("/", 1)[1]
    assert (await _execute(two[1], "in-2")).status_code == 202
    await two[0].post("/users", json=user("u-2"))
    other = await two[0].post(EXECUTE, json={"user_id": "u-2", "parameters": {"invoice_id": "in-1"}})
    assert other.status_code == 202
    await two[0].delete(path)
    await _until(two[0], path, status="cancelled")
    again = await _execute(two[1], "in-1", {"Prefer": "return=existing"})
    assert again.status_code == 202
    assert again.headers["location"] != path
    await _end(two[0])


async def test_a_request_without_the_key_is_refused_at_its_parameter(two: list[httpx.AsyncClient]) -> None:
    answer = await _execute(two[0], None)
    assert field_errors(answer) == {("/parameters/invoice_id", "required")}
    assert await _all(two[0]) == []


async def test_a_payment_of_the_invoice_alone_ends_the_instance_that_its_failure_started(
    two: list[httpx.AsyncClient], database: Database
) -> None:
    event_id = await _fail(two[0])
    await _projected(database, 1)
    [started] = await _all(two[0])
    path = f"{INSTANCES}/{started['instance_id']}"
    shown = await _until(two[0], path, current_step="wait_before_payment_failed")
    assert shown["trigger"] == {"event_id": event_id, "event_type": "billing.payment_failed"}
    assert (shown["key"], shown["parameters"]["invoice_id"]) == ({"invoice_id": "in-1"}, "in-1")
    await _send(two[1], "billing.payment_succeeded", invoice_id="in-2")
    await _projected(database, 2)
    assert (await two[0].get(path)).json()["status"] == "running"
    await _send(two[1], "billing.payment_succeeded", invoice_id="in-1")
    assert (await _until(two[0], path, status="completed"))["reason"] == "paid"


async def test_a_payment_ends_an_instance_that_a_request_started(two: list[httpx.AsyncClient]) -> None:
    path = (await _execute(two[0], "in-1")).headers["location"]
    started = await _until(two[0], path, current_step="wait_before_payment_failed")
    assert started["trigger"] is None
    await _send(two[1], "billing.payment_succeeded", invoice_id="in-1")
    assert (await _until(two[0], path, status="completed"))["reason"] == "paid"


async def test_an_invoice_has_one_instance_and_one_payment_whether_its_id_is_a_number_or_a_text(
    two: list[httpx.AsyncClient], database: Database
) -> None:
    await _fail(two[0], 4711)
    await _projected(database, 1)
    [started] = await _all(two[0], "user_id=u-1&key=4711")
    assert started["key"] == {"invoice_id": 4711}
    for sent in (4711, "4711"):
        assert_problem(await _execute(two[1], sent), 409, "already_running")
    await _send(two[1], "billing.payment_succeeded", invoice_id="4711")
    path = f"{INSTANCES}/{started['instance_id']}"
    assert (await _until(two[0], path, status="completed"))["reason"] == "paid"


async def test_instances_are_found_by_the_key_of_their_user(two: list[httpx.AsyncClient]) -> None:
    paths = [(await _execute(two[0], each)).headers["location"] for each in ("in-1", "in-2")]
    found = await _all(two[1], "user_id=u-1&key=in-2")
    assert [f"{INSTANCES}/{each['instance_id']}" for each in found] == paths[1:]
    assert await _all(two[1], "user_id=u-2&key=in-2") == []
    assert (await two[1].get("/workflows/dunning")).json()["key"] == ["invoice_id"]
    assert (await two[1].get("/workflows/onboarding")).json()["key"] == []
    for path, pointer, code in (
        (f"{INSTANCES}?key=in-1", "/query/user_id", "required"),
        (f"{INSTANCES}?user_id=u-1&key=in-1&key=in-2", "/query/key", "invalid_value"),
        ("/workflows/onboarding/instances?user_id=u-1&key=in-1", "/query/key", "invalid_value"),
    ):
        assert field_errors(await two[0].get(path)) == {(pointer, code)}
    await _end(two[0])
