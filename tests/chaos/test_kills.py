"""`kill -9` of each part in the middle of an onboarding: it comes back, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.chaos.conftest import LiveStack

pytestmark = pytest.mark.chaos

EXPECTED = ["Welcome, Ada Lovelace", "Ada Lovelace, shall we help you get started?"]


@pytest.mark.parametrize("part", ["worker", "api", "temporal", "postgres"])
async def test_an_onboarding_outlives_the_death_of_a_part(live: LiveStack, part: str) -> None:
    address = await live.customer("u-1")
    old = live.process.endpoints["pids"][part]
    killed = asyncio.Event()

    async def kill_while_the_message_is_on_the_wire(message: object) -> None:
        if not killed.is_set():
            killed.set()
            os.kill(old, signal.SIGKILL)

    live.mail.answer = kill_while_the_message_is_on_the_wire
    waits = {"first_activity_within": "PT4S", "nudge_within": "PT2S"}
    accepted = await live.call(
        "POST",
        "/workflows/onboarding/execute",
        json={"user_id": "u-1", "parameters": waits},
        headers={"Idempotency-Key": "once"},
    )
    assert accepted.status_code == 202
    await asyncio.wait_for(killed.wait(), 30)
    await asyncio.to_thread(live.process.wait_until_back, part, old, 60)

    instance = await live.until_finished(accepted.headers["location"])
    assert instance["status"] == "completed"
    assert instance["results"]["set_stage"]["stage"] == "at_risk"
    assert [message["Subject"] for message in live.mail.to(address)] == EXPECTED
    assert (await live.call("GET", "/users/u-1")).json()["lifecycle_stage"] == "at_risk"
