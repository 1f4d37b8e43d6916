"""Many onboardings at once, each ending right."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.chaos.conftest import LiveStack
from tests.support.builders import user

pytestmark = pytest.mark.slow

COUNT = 200


async def test_two_hundred_onboardings_executed_at_once_all_end_right(live: LiveStack) -> None:
    users = [user(f"u-{number}", name=f"Customer {number}") for number in range(COUNT)]
    created = await live.call("POST", "/users/batch", json={"users": users})
    assert created.json()["created"] == COUNT

    async def run(user_id: str) -> str:
        waits = {"first_activity_within": "PT2S", "nudge_within": "PT1S"}
        body = {"user_id": user_id, "parameters": waits}
        accepted = await live.call("POST", "/workflows/onboarding/execute", json=body)
        assert accepted.status_code == 202, accepted.text
        instance = await live.until_finished(accepted.headers["location"])
        assert instance["user_id"] == user_id
        return str(instance["status"])

    statuses = await asyncio.gather(*(run(each["user_id"]) for each in users))
    assert Counter(statuses) == {"completed": COUNT}
    assert Counter(message["To"] for message in live.mail.received) == {each["email"]: 2 for each in users}
    stages = (await live.call("GET", f"/users?lifecycle_stage=at_risk&limit={COUNT}")).json()["data"]
    assert len(stages) == COUNT
