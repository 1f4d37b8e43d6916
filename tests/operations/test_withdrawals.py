"""A withdrawal by any route ends the instances that need the consent, racing starts included."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from runtime.database import Database
from tests.support.builders import user
from tests.support.http import assert_problem

MARKETING = "/users/u-1/consents/marketing"
GRANTED = {"data_collection": True, "marketing": True}
ROUNDS = 12


async def _execute(client: httpx.AsyncClient, workflow_id: str = "newsletter", **headers: str) -> httpx.Response:
    return await client.post(f"/workflows/{workflow_id}/execute", json={"user_id": "u-1"}, headers=headers)


async def _until(client: httpx.AsyncClient, path: str, **wanted: Any) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            instance: dict[str, Any] = (await client.get(path)).json()
            if all(instance[name] == value for name, value in wanted.items()):
                return instance
            await asyncio.sleep(0.02)


async def _delete(client: httpx.AsyncClient) -> httpx.Response:
    return await client.delete(MARKETING)


async def _put(client: httpx.AsyncClient) -> httpx.Response:
    return await client.put(MARKETING, json={"granted": False})


async def _patch(client: httpx.AsyncClient) -> httpx.Response:
    return await client.patch("/users/u-1", json={"consents": {"marketing": False}})


async def _batch(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/users/batch", json={"users": [{"user_id": "u-1", "consents": {"marketing": None}}]})


async def _consent_batch(client: httpx.AsyncClient) -> httpx.Response:
    withdrawal = {"user_id": "u-1", "purpose": "marketing", "granted": False}
    return await client.post(
        "/consents/batch", json={"consents": [withdrawal, withdrawal | {"granted": True}, withdrawal]}
    )


@pytest.mark.parametrize("withdraw", [_delete, _put, _patch, _batch, _consent_batch])
async def test_a_withdrawal_ends_the_instances_that_need_the_consent_and_no_others(
    two: list[httpx.AsyncClient], withdraw: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
) -> None:
    await two[0].post("/users", json=user(consents=GRANTED))
    await two[0].post("/users", json=user("u-2", consents=GRANTED))
    running = (await _execute(two[0])).headers["location"]
    paused = (await _execute(two[1])).headers["location"]
    service = (await _execute(two[0], "onboarding")).headers["location"]
    other = (await two[0].post("/workflows/newsletter/execute", json={"user_id": "u-2"})).headers["location"]
    for path in (running, paused, other):
        await _until(two[0], path, current_step="wait_for_visit")
    await _until(two[0], service, current_step="wait_for_first_activity")
    assert (await two[0].post(f"{paused}/pause")).json()["status"] == "paused"

    assert (await withdraw(two[1])).status_code == 200
    for path in (running, paused):
        ended = await _until(two[0], path, status="cancelled")
        assert ended["reason"] == "consent_withdrawn"
        assert ended["end_time"]
        assert ended["error"] is None
        assert ended["results"]["clean_up"] == {"messages_withdrawn": 0}
    for path in (service, other):
        assert (await two[0].get(path)).json()["status"] == "running"
        await two[0].delete(path)
    assert_problem(await _execute(two[0]), 403, "consent_required")


async def test_a_withdrawal_without_an_instance_calls_temporal_for_nothing(
    two: list[httpx.AsyncClient], database: Database
) -> None:
    await two[0].post("/users", json=user(consents=GRANTED))
    path = (await _execute(two[0])).headers["location"]
    await two[0].delete("/users/u-1/consents/profiling")
    await two[0].patch("/users/u-1", json={"consents": {"marketing": True}})
    assert (await two[0].get(path)).json()["status"] == "running"
    await two[0].delete(MARKETING)
    await _until(two[0], path, status="cancelled")
    await two[0].delete(MARKETING)
    async with database.connection() as connection, asyncio.timeout(60):
        while await connection.fetchval("SELECT count(*) FROM temporal_outbox"):
            await asyncio.sleep(0.02)


async def test_no_start_that_races_a_withdrawal_survives_it(
    two: list[httpx.AsyncClient], database: Database
) -> None:
    await two[0].post("/users", json=user(consents=GRANTED))
    accepted = 0
    for number in range(ROUNDS):
        await two[0].put(MARKETING, json={"granted": True})
        withdrawn = asyncio.Event()

        async def start(client: httpx.AsyncClient, withdrawn: asyncio.Event = withdrawn) -> list[tuple[bool, int]]:
            answers = []
            while True:
                after = withdrawn.is_set()
                answers.append((after, (await _execute(client)).status_code))
                if after:
                    return answers

        starters = [asyncio.create_task(start(two[each % 2])) for each in range(4)]
        await asyncio.sleep(random.uniform(0.005, 0.03))
        await two[number % 2].delete(MARKETING)
        withdrawn.set()
        answers = [answer for answers in await asyncio.gather(*starters) for answer in answers]
        assert {status for after, status in answers if after} == {403}
        assert {status for _, status in answers} <= {202, 403}
        accepted += sum(status == 202 for _, status in answers)
    assert accepted > ROUNDS
    async with database.connection() as connection, asyncio.timeout(60):
        while await connection.fetchval("SELECT count(*) FROM instances WHERE end_time IS NULL"):
            await asyncio.sleep(0.05)
        rows = await connection.fetch("SELECT status, reason, count(*) FROM instances GROUP BY 1, 2")
    assert [tuple(row) for row in rows] == [("cancelled", "consent_withdrawn", accepted)]
