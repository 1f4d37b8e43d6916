"""Over HTTP, with a worker: soon after an opt-out the attribute is gone from timeline, export and disk."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from models.vocabulary import Role
from runtime.database import Database
from store.connection import Connection
from tests.support.events import add_user, event, moment
from tests.support.http import bearer, new_key
from tests.support.little_stack import LittleStack

TOLD: dict[str, Any] = {
    "location": {"city": "Berlin", "country": "DE"},
    "device_info": {"device_type": "mobile", "os": "iOS"},
    "event_properties": {"city": "Berlin", "lesson": "one"},
}
LEFT: dict[str, Any] = {
    "location": {"country": "DE"},
    "device_info": {"os": "iOS"},
    "event_properties": {"lesson": "one"},
}


async def _timeline(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    answer = await client.get("/users/u-1/events", params={"limit": 1000})
    return [{part: each[part] for part in TOLD} for each in answer.json()["data"]]


async def test_the_worker_redacts_events_after_an_opt_out_by_any_route(
    stack: LittleStack, two: list[httpx.AsyncClient], database: Database, owner: Connection
) -> None:
    await add_user(two[0], lifecycle_stage_pinned=True)
    sent = [event(f"e-{number}", timestamp=moment(days=number), **TOLD) for number in range(60)]
    answer = await two[0].post("/events/batch", json={"events": sent})
    assert answer.json()["accepted"] == len(sent), answer.text

    refusal = {"user_id": "u-1", "privacy_preferences": {"city": False}}
    assert (await two[1].post("/users/batch", json={"users": [refusal]})).json()["updated"] == 1
    answer = await two[0].patch("/users/u-1", json={"privacy_preferences": {"device_type": False}})
    assert answer.json()["privacy_preferences"] == {"city": False, "device_type": False}
    async with asyncio.timeout(60):
        while await _timeline(two[1]) != [LEFT] * len(sent):
            await asyncio.sleep(0.05)

    exported = (await two[0].get("/users/u-1/export")).json()
    assert "Berlin" not in str(exported)
    assert len(exported["events"]) == len(sent)
    rows = await owner.fetch("SELECT DISTINCT dimensions::text FROM events")
    assert [row[0] for row in rows] == ['{"country": "DE"}']
    async with (
        httpx.AsyncClient(
            base_url=stack.addresses[0], headers=bearer(await new_key(database, Role.ADMIN)), trust_env=False
        ) as admin,
        asyncio.timeout(60),
    ):
        while not (
            found := (await admin.get("/audit", params={"user_id": "u-1", "action": "events.strip"})).json()[
                "data"
            ]
        ):
            await asyncio.sleep(0.05)
    assert {(each["actor"], each["role"]) for each in found} == {("system:redaction", "system")}
    assert set(found[0]["fields"]) == {"city", "device_type"}
