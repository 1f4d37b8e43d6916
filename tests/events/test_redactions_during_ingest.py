"""Redactions run during ingest, projection and deletion: no event is lost, and no redacted attribute stays."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

import httpx
import pytest

from activities.redaction import Redactions
from models.rules.sharding import shard_of
from privacy.encryption import Cipher
from runtime.database import Database
from store.connection import Connection
from store.events import redactions
from tests.support.events import add_user, moment, purchase
from tests.support.log import Log, drain

ROUNDS = 4
SENDERS = 4


def _bought(number: int) -> dict[str, Any]:
    """A purchase at some time in the last two months."""
    when = moment(days=number * 7 % 60, seconds=number)
    return {**purchase(f"e-{number}", order_id=f"o-{number}"), "location": {"city": "Berlin"}, "timestamp": when}


async def _send(client: httpx.AsyncClient, numbers: itertools.count[int], over: asyncio.Event) -> list[str]:
    sent: list[str] = []
    while not over.is_set():
        batch = [_bought(next(numbers)) for _ in range(5)]
        answer = await client.post("/events/batch", json={"events": batch})
        assert (answer.status_code, answer.json().get("accepted")) == (202, 5), answer.text
        sent += [each["event_id"] for each in batch]
        await asyncio.sleep(0.1)
    return sent


async def _fold(log: Log, over: asyncio.Event) -> None:
    follower = log.follower(shard_of("u-1"))
    while not over.is_set():
        await follower.step()
        await asyncio.sleep(0.005)


class _RollBackError(Exception):
    pass


async def _lock_events(database: Database, over: asyncio.Event) -> None:
    """Lock events by deletions that are rolled back, as retention does and in another order than a page."""
    while not over.is_set():
        with contextlib.suppress(_RollBackError):
            async with database.transaction() as connection:
                await connection.execute("DELETE FROM events WHERE hashtext(event_id) % 10 = 0")
                await asyncio.sleep(0.01)
                raise _RollBackError
        await asyncio.sleep(0.03)


async def _deadlocks(owner: Connection) -> int:
    count: int = await owner.fetchval("SELECT sum(deadlocks) FROM pg_stat_database")
    return count


async def _prefer(client: httpx.AsyncClient, city: bool | None) -> None:
    answer = await client.patch("/users/u-1", json={"privacy_preferences": {"city": city}})
    assert answer.status_code == 200, answer.text


@pytest.mark.slow
async def test_redaction_during_ingest_projection_and_deletions_loses_no_event_and_leaves_no_attribute(
    two: list[httpx.AsyncClient],
    database: Database,
    owner: Connection,
    cipher: Cipher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redactions, "PAGE", 20)
    log = Log(database, cipher)
    await add_user(two[0], lifecycle_stage_pinned=True)
    numbers, over, stored, deadlocks = itertools.count(), asyncio.Event(), 0, await _deadlocks(owner)
    async with asyncio.TaskGroup() as others:
        for _ in range(2):
            others.create_task(Redactions(database, cipher).apply_while(lambda: not over.is_set()))
        others.create_task(_fold(log, over))
        others.create_task(_lock_events(database, over))
        senders = [others.create_task(_send(two[each % 2], numbers, over)) for each in range(SENDERS)]
        for number in range(ROUNDS):
            await asyncio.sleep(0.3)
            before = {row["event_id"] for row in await owner.fetch("SELECT event_id FROM events")}
            await _prefer(two[number % 2], city=False)
            async with asyncio.timeout(60):
                while await owner.fetchval("SELECT count(*) FROM redactions"):
                    await asyncio.sleep(0.02)
            places = await _places(two[0])
            assert places.keys() >= before
            assert all(place == {} for place in places.values())
            stored = len(places)
            await _prefer(two[number % 2], city=None)
        await asyncio.sleep(0.1)
        over.set()
    sent = [event_id for sender in senders for event_id in sender.result()]
    places = await _places(two[0])
    assert sorted(places) == sorted(sent)
    assert {"city": "Berlin"} in places.values(), "events that were stored after it was allowed again keep it"
    assert len(sent) > stored > ROUNDS
    await drain(log.follower(shard_of("u-1")))
    assert (await log.activity("u-1")).total_purchases == len(sent)
    await asyncio.sleep(1.1)  # a session reports its deadlocks within a second
    assert await _deadlocks(owner) == deadlocks


async def _places(client: httpx.AsyncClient) -> dict[str, Any]:
    """The location of each of the person's events."""
    found: dict[str, Any] = {}
    cursor = None
    while True:
        asked: dict[str, Any] = {"limit": 1000} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/users/u-1/events", params=asked)).json()
        found |= {each["event_id"]: each["location"] for each in page["data"]}
        cursor = page["pagination"]["next_cursor"]
        if cursor is None:
            return found
