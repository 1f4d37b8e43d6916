"""Many instances for one user at the same time: each has its own context, and its own outcome."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.http import Clients, assert_problem
from tests.support.people import Customer
from tests.workflows_api.conftest import execute

COUNT = 100


async def _until(api: Clients, path: str, name: str, value: str) -> dict[str, Any]:
    """The instance once it shows a value; asked seldom, since many ask."""
    while True:
        instance: dict[str, Any] = (await api.admin.get(path)).json()
        if instance[name] == value:
            return instance
        await asyncio.sleep(0.5)


async def test_a_hundred_instances_of_one_user_never_see_each_others_context(
    api: Clients, customer: Customer, working: None
) -> None:
    """Every other one is cancelled while it waits; each is told apart by its parameters and attempts."""

    async def run(number: int) -> dict[str, Any]:
        long = number % 2 == 1
        waits = {"first_activity_within": "PT1H" if long else f"PT0.{100 + number}S", "nudge_within": "PT0.1S"}
        answer = await execute(api, customer, parameters=waits, max_attempts=number + 1)
        path = answer.headers["location"]
        if long:
            await _until(api, path, "current_step", "wait_for_first_activity")
            assert (await api.operator.delete(path)).status_code == 202
        ended = await _until(api, path, "status", "cancelled" if long else "completed")
        assert ended["instance_id"] == answer.json()["instance_id"]
        assert ended["parameters"]["first_activity_within"] == answer.json()["parameters"]["first_activity_within"]
        assert ended["max_attempts"] == number + 1
        assert ended["variables"] == ({} if long else {"nudged": True})
        assert ("clean_up" in ended["results"]) is long
        assert ("set_stage" in ended["results"]) is not long
        steps = [attempt["step"] for attempt in ended["retries"]]
        assert steps == (["send_welcome", "clean_up"] if long else ["send_welcome", "send_nudge", "set_stage"])
        return ended

    async with asyncio.timeout(240), asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(number)) for number in range(COUNT)]
    ended = [task.result() for task in tasks]
    assert len({each["instance_id"] for each in ended}) == COUNT
    messages = [each["results"]["send_welcome"]["message_id"] for each in ended]
    assert len(set(messages)) == COUNT
    first = (await api.analyst.get(f"/users/{customer.user_id}/instances?limit=60")).json()
    cursor = first["pagination"]["next_cursor"]
    rest = (await api.analyst.get(f"/users/{customer.user_id}/instances?limit=60&cursor={cursor}")).json()
    listed = {each["instance_id"] for each in (*first["data"], *rest["data"])}
    assert listed == {each["instance_id"] for each in ended}
    cancelled = await api.analyst.get(f"/users/{customer.user_id}/instances?status=cancelled")
    assert len(cancelled.json()["data"]) == COUNT / 2
    assert_problem(await api.analyst.get("/users/nobody/instances"), 404, "user_not_found")
    assert_problem(await api.integrator.get(f"/users/{customer.user_id}/instances"), 403, "forbidden")
