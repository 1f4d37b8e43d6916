"""A closed account runs no workflow, however it was closed; a suspended one runs no marketing workflow."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from runtime.database import Database
from tests.support.builders import user
from tests.support.http import assert_problem

WORKFLOWS = {
    "onboarding": "wait_for_first_activity",
    "post_purchase": "wait_before_thanks",
    "cart_recovery": "wait_for_end_of_shopping",
    "churn_prevention": "wait_for_ten_before_we_miss_you",
    "win_back": "wait_before_whats_new",
    "trial_conversion": "wait_for_first_use",
    "newsletter": "wait_for_visit",
}
GRANTED = {"data_collection": True, "marketing": True}
ROUNDS = 8


async def _execute(client: httpx.AsyncClient, workflow_id: str) -> httpx.Response:
    return await client.post(f"/workflows/{workflow_id}/execute", json={"user_id": "u-1"})


async def _until(client: httpx.AsyncClient, path: str, **wanted: Any) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            instance: dict[str, Any] = (await client.get(path)).json()
            if all(instance[name] == value for name, value in wanted.items()):
                return instance
            await asyncio.sleep(0.02)


def _event(event_type: str, **properties: Any) -> dict[str, Any]:
    return {
        "event_id": f"{event_type}-{random.random()}",
        "user_id": "u-1",
        "event_type": event_type,
        "timestamp": datetime.now(UTC).isoformat(),
        "session_id": "s-1",
        "event_properties": properties,
    }


async def _set(client: httpx.AsyncClient, status: str) -> httpx.Response:
    return await client.patch("/users/u-1", json={"account_status": status})


async def _patch(client: httpx.AsyncClient) -> httpx.Response:
    return await _set(client, "closed")


async def _batch(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/users/batch", json={"users": [{"user_id": "u-1", "account_status": "closed"}]})


async def _deletion(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/events", json=_event("user.account_deletion"))


async def _old_deletion(client: httpx.AsyncClient) -> httpx.Response:
    events = [_event("user.account_deletion")]
    return await client.post("/events/batch", json={"historical": True, "events": events})


@pytest.mark.parametrize("close", [_patch, _batch, _deletion, _old_deletion])
async def test_closing_an_account_ends_all_of_its_instances(
    two: list[httpx.AsyncClient], close: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
) -> None:
    await two[0].post("/users", json=user(consents=GRANTED))
    await two[0].post("/users", json=user("u-2", consents=GRANTED))
    paths = [(await _execute(two[0], workflow_id)).headers["location"] for workflow_id in WORKFLOWS]
    other = (await two[0].post("/workflows/newsletter/execute", json={"user_id": "u-2"})).headers["location"]
    for path, wait in zip(paths, WORKFLOWS.values(), strict=True):
        await _until(two[0], path, current_step=wait)
    assert (await two[0].post(f"{paths[-1]}/pause")).json()["status"] == "paused"

    assert (await close(two[1])).status_code in (200, 202)
    for path in paths:
        ended = await _until(two[0], path, status="cancelled")
        assert (ended["reason"], ended["error"]) == ("account_closed", None)
    assert (await two[0].get(other)).json()["status"] == "running"
    await two[0].delete(other)
    for workflow_id in WORKFLOWS:
        assert_problem(await _execute(two[0], workflow_id), 409, "account_closed")

    assert (await _set(two[0], "active")).status_code == 200
    assert {(await two[1].get(path)).json()["status"] for path in paths} == {"cancelled"}
    again = (await _execute(two[0], "newsletter")).headers["location"]
    assert (await two[0].get(again)).json()["status"] == "running"
    await two[0].delete(again)


@pytest.mark.parametrize(
    ("status", "started"), [("closed", set()), ("suspended", {"onboarding"}), ("active", {"onboarding", "cart"})]
)
async def test_an_event_starts_only_workflows_that_the_account_permits(
    two: list[httpx.AsyncClient], database: Database, status: str, started: set[str]
) -> None:
    await two[0].post("/users", json=user(consents=GRANTED, account_status=status))
    events = [_event("user.signup"), _event("transaction.cart_add", product_id="p-1")]
    assert (await two[0].post("/events/batch", json={"events": events})).json()["accepted"] == 2
    async with database.connection() as connection, asyncio.timeout(60):
        done = "SELECT (SELECT count(*) FROM temporal_outbox) = 0 AND (SELECT count(*) FROM sessions) > 0"
        while not await connection.fetchval(done):
            await asyncio.sleep(0.02)
    instances = (await two[0].get("/users/u-1/instances")).json()["data"]
    assert {each["workflow_id"].removesuffix("_recovery") for each in instances} == started
    for each in instances:
        await two[0].delete(f"/workflows/{each['workflow_id']}/instances/{each['instance_id']}")


async def test_a_suspension_ends_nothing_and_refuses_marketing(two: list[httpx.AsyncClient]) -> None:
    await two[0].post("/users", json=user(consents=GRANTED))
    paths = [(await _execute(two[0], each)).headers["location"] for each in ("newsletter", "post_purchase")]
    assert (await _set(two[1], "suspended")).status_code == 200
    assert_problem(await _execute(two[0], "newsletter"), 409, "account_suspended")
    paths.append((await _execute(two[0], "post_purchase")).headers["location"])
    await asyncio.sleep(0.5)
    for path in paths:
        assert (await two[0].get(path)).json()["status"] == "running"
        await two[0].delete(path)


CLOSE: Mapping[str, Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]] = {"patch": _patch, "batch": _batch}


@pytest.mark.parametrize("workflow_id", ["newsletter", "post_purchase"])
@pytest.mark.parametrize("close", CLOSE.values(), ids=CLOSE)
async def test_no_start_that_races_a_closing_survives_it(
    two: list[httpx.AsyncClient],
    database: Database,
    workflow_id: str,
    close: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]],
) -> None:
    await two[0].post("/users", json=user(consents=GRANTED))
    for number in range(ROUNDS):
        await _set(two[0], "active")
        closed = asyncio.Event()

        async def start(client: httpx.AsyncClient, closed: asyncio.Event = closed) -> list[tuple[bool, int]]:
            answers = []
            while True:
                after = closed.is_set()
                answers.append((after, (await _execute(client, workflow_id)).status_code))
                if after:
                    return answers

        starters = [asyncio.create_task(start(two[each % 2])) for each in range(4)]
        await asyncio.sleep(random.uniform(0.005, 0.03))
        await close(two[number % 2])
        closed.set()
        answers = [answer for answers in await asyncio.gather(*starters) for answer in answers]
        assert {status for after, status in answers if after} == {409}
        assert {status for _, status in answers} <= {202, 409}
    async with database.connection() as connection, asyncio.timeout(90):
        while await connection.fetchval("SELECT count(*) FROM instances WHERE end_time IS NULL"):
            await asyncio.sleep(0.05)
        rows = await connection.fetch("SELECT DISTINCT status, reason FROM instances")
    assert [tuple(row) for row in rows] == [("cancelled", "account_closed")]
