"""Many concurrent instances of one user: each has its own context and its own end."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.support.builders import user

COUNT = 100
EXECUTE = "/workflows/onboarding/execute"


async def _until(client: httpx.AsyncClient, path: str, name: str, value: str) -> dict[str, Any]:
    """The instance once it shows a value; polls slowly, since many instances are polled."""
    while True:
        instance: dict[str, Any] = (await client.get(path)).json()
        if instance[name] == value:
            return instance
        await asyncio.sleep(0.5)


async def _run(client: httpx.AsyncClient, number: int) -> dict[str, Any]:
    """One instance with its own parameters and attempts; every other instance is cancelled while it waits."""
    long = number % 2 == 1
    waits = {"first_activity_within": "PT1H" if long else f"PT0.{100 + number}S", "nudge_within": "PT0.1S"}
    body = {"user_id": "u-1", "parameters": waits, "max_attempts": number + 1}
    answer = await client.post(EXECUTE, json={**body, "again": True})
    assert answer.status_code == 202, answer.text
    path = answer.headers["location"]
    if long:
        await _until(client, path, "current_step", "wait_for_first_activity")
        assert (await client.delete(path)).status_code == 202
    ended = await _until(client, path, "status", "cancelled" if long else "completed")
    assert ended["instance_id"] == answer.json()["instance_id"]
    assert ended["parameters"] == answer.json()["parameters"]
    assert ended["max_attempts"] == number + 1
    assert ended["variables"] == ({} if long else {"nudged": True})
    assert ("clean_up" in ended["results"]) is long
    steps = [attempt["step"] for attempt in ended["retries"]]
    assert steps == (["send_welcome", "clean_up"] if long else ["send_welcome", "send_nudge", "set_stage"])
    return ended


@pytest.mark.slow
async def test_a_hundred_instances_of_one_user_keep_separate_contexts(two: list[httpx.AsyncClient]) -> None:
    await two[0].post("/users", json=user())
    async with asyncio.timeout(240), asyncio.TaskGroup() as group:
        tasks = [group.create_task(_run(two[number % 2], number)) for number in range(COUNT)]
    ended = [task.result() for task in tasks]
    messages = [each["results"]["send_welcome"]["message_id"] for each in ended]
    assert len(set(messages)) == len({each["instance_id"] for each in ended}) == COUNT

    first = (await two[0].get("/users/u-1/instances?limit=60")).json()
    cursor = first["pagination"]["next_cursor"]
    rest = (await two[0].get(f"/users/u-1/instances?limit=60&cursor={cursor}")).json()
    listed = {each["instance_id"] for each in (*first["data"], *rest["data"])}
    assert listed == {each["instance_id"] for each in ended}
    cancelled = (await two[0].get("/users/u-1/instances?status=cancelled")).json()["data"]
    assert len(cancelled) == COUNT / 2
    assert (await two[0].get("/users/unknown/instances")).json()["code"] == "user_not_found"
