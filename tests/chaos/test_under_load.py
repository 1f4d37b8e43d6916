"""`kill -9` of parts at random, for minutes and under load: whatever was accepted ends right, once.

`PERENNIAL_CHAOS_SECONDS` says for how long (default: 300), `PERENNIAL_CHAOS_SEED` repeats an order of kills.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from tests.chaos.conftest import LiveStack

pytestmark = pytest.mark.chaos

SECONDS = float(os.environ.get("PERENNIAL_CHAOS_SECONDS", "300"))
SEED = int(os.environ.get("PERENNIAL_CHAOS_SEED", str(random.randrange(10**6))))
PARTS = ("worker", "api", "temporal", "postgres")
BETWEEN_EXECUTES = 0.4
BACK_WITHIN = 120
WAITS = {"first_activity_within": "PT2S", "nudge_within": "PT1S"}
MAILS = {"send_welcome": "Welcome, Ada Lovelace", "send_nudge": "Ada Lovelace, shall we help you get started?"}


@dataclass
class Load:
    """What was accepted while parts were killed, and what was killed."""

    live: LiveStack
    until: float
    accepted: dict[str, str] = field(default_factory=dict)
    """The path of each instance, by its user."""
    killed: Counter[str] = field(default_factory=Counter)

    @property
    def on(self) -> bool:
        return time.monotonic() < self.until

    async def executes(self) -> None:
        """One execute after the other, each of a new customer, none waited for."""
        async with asyncio.TaskGroup() as group:
            number = 0
            while self.on:
                number += 1
                group.create_task(self._execute(f"u-{number}"))
                await asyncio.sleep(BETWEEN_EXECUTES)

    async def _execute(self, user_id: str) -> None:
        await self.live.customer(user_id)
        answer = await self.live.call(
            "POST",
            "/workflows/onboarding/execute",
            json={"user_id": user_id, "parameters": WAITS},
            headers={"Idempotency-Key": user_id},
        )
        assert answer.status_code == 202, answer.text
        self.accepted[user_id] = answer.headers["location"]

    async def kills(self, chance: random.Random) -> None:
        """One part after the other, each as soon as the one before is back and a moment has passed."""
        while self.on:
            await asyncio.sleep(chance.uniform(1, 5))
            part = chance.choice(PARTS)
            old = self.live.process.endpoints["pids"].get(part)
            if old is None:
                continue
            os.kill(old, signal.SIGKILL)
            self.killed[part] += 1
            await asyncio.to_thread(self.live.process.wait_until_back, part, old, BACK_WITHIN)


async def test_what_was_accepted_ends_right_and_every_message_leaves_once(live: LiveStack) -> None:
    load = Load(live, time.monotonic() + SECONDS)
    async with asyncio.TaskGroup() as group:
        group.create_task(load.executes())
        group.create_task(load.kills(random.Random(SEED)))
    assert load.killed, "nothing was killed"
    uncertain = missing = 0
    for user_id, path in load.accepted.items():
        instance = await live.until_finished(path, within=180)
        told = f"seed {SEED}, {dict(load.killed)}, {user_id}: {instance}"
        assert instance["status"] == "completed", told
        assert instance["results"]["set_stage"]["stage"] == "at_risk", told
        subjects = Counter(message["Subject"] for message in live.mail.to(f"{user_id}@example.com"))
        for step, subject in MAILS.items():
            unconfirmed = instance["results"][step]["status"] == "unconfirmed"
            uncertain += unconfirmed
            missing += subjects[subject] == 0
            assert subjects[subject] == 1 or (unconfirmed and subjects[subject] == 0), told
        assert set(subjects) <= set(MAILS.values()), told
    open_letters = (await live.call("GET", "/dead-letters")).json()["data"]
    assert open_letters == []
    print(  # noqa: T201 - what the run amounted to
        f"{len(load.accepted)} accepted, killed {dict(load.killed)}, seed {SEED}; "
        f"{uncertain} messages unconfirmed (ADR 0007), of which {missing} had not arrived"
    )
