"""Concurrent ingest on two processes, and against exclusive locks."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import asyncpg
import httpx
import pytest

from models.vocabulary import Role
from runtime.database import Database
from runtime.embedded.ports import free_port
from runtime.settings import Settings
from store.connection import Connection
from store.consents import locks
from tests.support.events import add_user, add_users, event
from tests.support.http import bearer, new_key
from tests.support.processes import PerennialProcess


async def test_of_two_equal_events_in_flight_on_two_processes_one_is_accepted(
    two: list[httpx.AsyncClient], owner: Connection
) -> None:
    people = [f"u-{number}" for number in range(50)]
    await add_users(two[0], people)
    for _ in range(5):
        events = [event(user_id=random.choice(people)) for _ in range(300)]
        batches = [random.sample(events, len(events)) for _ in range(6)]
        answers = await asyncio.gather(
            *(
                two[number % 2].post("/events/batch", json={"events": batch})
                for number, batch in enumerate(batches)
            ),
            *(two[number % 2].post("/events", json=events[number // 2]) for number in range(40)),
        )
        assert {answer.status_code for answer in answers} == {202}
        results = [each for answer in answers for each in answer.json().get("results", [answer.json()])]
        accepted = [each["event_id"] for each in results if each["status"] == "accepted"]
        assert sorted(accepted) == sorted(each["event_id"] for each in events)
        assert {each["status"] for each in results} == {"accepted", "duplicate"}
    assert await owner.fetchval("SELECT count(*) FROM events") == 1500


async def test_of_two_different_events_with_one_id_one_is_stored(
    two: list[httpx.AsyncClient], owner: Connection
) -> None:
    people = ["u-1", "u-2"]
    await add_users(two[0], people)
    for number in range(20):
        pair = [event(f"e-{number}", user_id=each) for each in people]
        answers = await asyncio.gather(
            *(client.post("/events", json=sent) for client, sent in zip(two, pair, strict=True))
        )
        assert sorted(answer.status_code for answer in answers) == [202, 409]
    assert await owner.fetchval("SELECT count(*) FROM events") == 20


async def test_big_batches_and_exclusive_locks_never_deadlock(
    two: list[httpx.AsyncClient], database: Database
) -> None:
    people = [f"u-{number}" for number in range(1000)]
    await add_users(two[0], people)
    until = time.monotonic() + 4
    done = {"ingest": 0, "exclusive": 0, "withdrawal": 0}

    async def ingest(client: httpx.AsyncClient) -> None:
        while time.monotonic() < until:
            batch = [event(user_id=each) for each in random.sample(people, len(people))]
            answer = await client.post("/events/batch", json={"events": batch})
            assert answer.status_code in (202, 422), answer.text
            done["ingest"] += 1

    async def exclude() -> None:
        while time.monotonic() < until:
            async with database.transaction() as connection:
                await locks.exclude(connection, random.sample(people, 300))
            done["exclusive"] += 1

    async def withdraw(client: httpx.AsyncClient) -> None:
        while time.monotonic() < until:
            granted = random.random() < 0.5
            chosen = random.sample(people, 50)
            users = [{"user_id": each, "consents": {"data_collection": granted}} for each in chosen]
            path = f"/users/{random.choice(people)}/consents/data_collection"
            answers = await asyncio.gather(
                client.post("/users/batch", json={"users": users}), client.put(path, json={"granted": granted})
            )
            assert {answer.status_code for answer in answers} == {200}
            done["withdrawal"] += 1

    tasks = [work(client) for client in two for work in (ingest, ingest, withdraw)]
    await asyncio.gather(*tasks, exclude(), exclude())
    assert all(count > 2 for count in done.values()), done


async def test_an_ingest_that_reads_after_the_lock_sees_the_withdrawal_it_waited_for(
    database: Database, owner: Connection
) -> None:
    """Lock and read must be two statements: one statement would read the state from before its wait."""
    await owner.execute("INSERT INTO consents VALUES ('u-1', 'data_collection', true)")
    read = "SELECT granted FROM consents WHERE user_id = 'u-1'"
    async with database.transaction() as withdrawal:
        await locks.exclude(withdrawal, ["u-1"])
        await withdrawal.execute("UPDATE consents SET granted = false")

        async def ingest() -> bool:
            async with database.transaction() as connection:
                await locks.share(connection, ["u-1"])
                return bool(await connection.fetchval(read))

        waiting = asyncio.create_task(ingest())
        await asyncio.sleep(0.1)
        assert not waiting.done()
    assert await waiting is False


async def test_two_connections_create_partitions_at_once_without_an_error(
    database: Database, owner: Connection
) -> None:
    async def ensure() -> bool:
        async with database.connection() as connection:
            return bool(await connection.fetchval("SELECT ensure_events_partition(DATE '1999-05-20')"))

    made = await asyncio.gather(*(ensure() for _ in range(8)))
    assert sorted(made) == [False] * 7 + [True]
    bounds = await owner.fetchval(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'events_1999_05'"
    )
    assert "1999-05-01 00:00:00+00" in bounds
    assert "1999-06-01 00:00:00+00" in bounds
    async with database.connection() as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("DROP TABLE events_1999_05")


async def test_stopping_the_api_loses_no_answered_event(
    api_settings: Settings, database: Database, owner: Connection, tmp_path: Path
) -> None:
    settings = api_settings.model_copy(update={"api_port": free_port()})
    headers = bearer(await new_key(database, Role.ADMIN))
    url = f"http://127.0.0.1:{settings.api_port}"
    accepted: list[str] = []
    async with (
        PerennialProcess("api", settings, tmp_path) as process,
        httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client,
    ):
        await add_user(client)

        async def send() -> None:
            while True:
                try:
                    answer = await client.post("/events", json=event())
                except httpx.TransportError:
                    return
                if answer.status_code != 202:
                    return
                accepted.append(answer.json()["event_id"])

        senders = [asyncio.create_task(send()) for _ in range(16)]
        await asyncio.sleep(0.5)
        assert await process.stop() == 0
        await asyncio.gather(*senders)
    stored = {row["event_id"] for row in await owner.fetch("SELECT event_id FROM events")}
    assert len(accepted) > 16
    assert set(accepted) <= stored
