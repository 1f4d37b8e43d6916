"""Ingest on two processes at once: against withdrawals, against itself, against exclusive locks."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx
import pytest

from models.vocabulary import Role
from runtime.database import Database
from runtime.embedded.ports import free_port
from runtime.settings import Settings
from store import consent_lock
from store.connection import Connection
from tests.support.events import add_user, add_users, event
from tests.support.http import bearer, new_key
from tests.support.processes import PerennialProcess

ROUNDS = 25
SENDERS = 4
COLLECTION = "/users/u-1/consents/data_collection"


@pytest.fixture(scope="module")
async def addresses(api_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[str]]:
    """Two API processes over one database."""
    async with AsyncExitStack() as stack:
        settings = [api_settings.model_copy(update={"api_port": free_port()}) for _ in range(2)]
        for each in settings:
            await stack.enter_async_context(PerennialProcess("api", each, tmp_path_factory.mktemp("api")))
        yield [f"http://127.0.0.1:{each.api_port}" for each in settings]


@pytest.fixture
async def two(addresses: list[str], database: Database) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A client of each process."""
    headers = bearer(await new_key(database, Role.ADMIN))
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=address, headers=headers, trust_env=False, timeout=60)
            )
            for address in addresses
        ]


@pytest.mark.parametrize("size", [None, 40])
async def test_after_the_answer_to_a_withdrawal_nothing_is_accepted_or_stored(
    two: list[httpx.AsyncClient], owner: Connection, size: int | None
) -> None:
    await add_user(two[0])
    others = [f"o-{number}" for number in range(200)]
    await add_users(two[0], others)
    accepted_in_all = 0
    for round_number in range(ROUNDS):
        await two[1].put(COLLECTION, json={"granted": True})
        race = Race(size, others)
        senders = [asyncio.create_task(race.send(two[number % 2])) for number in range(SENDERS)]
        await asyncio.sleep(random.uniform(0.005, 0.05))
        assert (await two[round_number % 2].delete(COLLECTION)).status_code == 200
        race.withdrawn = True
        at_the_answer = await _stored(owner)
        await asyncio.gather(*senders)
        assert race.late == []
        assert await _stored(owner) == at_the_answer
        assert set(race.accepted) <= at_the_answer
        accepted_in_all += len(race.accepted)
    assert accepted_in_all > ROUNDS


@dataclass
class Race:
    """One round: senders go on until the withdrawal was answered, and once more after it."""

    size: int | None
    others: list[str]
    withdrawn: bool = False
    accepted: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    async def send(self, client: httpx.AsyncClient) -> None:
        while True:
            after = self.withdrawn
            (self.late if after else self.accepted).extend(await _send(client, self.size, self.others))
            if after:
                return


async def _send(client: httpx.AsyncClient, size: int | None, others: list[str]) -> list[str]:
    """Send events of the person, alone or among others' in a batch; the ids that were accepted."""
    if size is None:
        answer = await client.post("/events", json=event())
        assert answer.status_code in (202, 403)
        return [answer.json()["event_id"]] if answer.status_code == 202 else []
    batch = [event(user_id=random.choice(others)) for _ in range(size)]
    mine = {place: event() for place in random.sample(range(size), 3)}
    batch = [mine.get(place, each) for place, each in enumerate(batch)]
    answer = await client.post("/events/batch", json={"events": batch})
    assert answer.status_code == 202, answer.text
    results = answer.json()["results"]
    return [each["event_id"] for each in results if each["index"] in mine and each["status"] == "accepted"]


async def _stored(owner: Connection) -> set[str]:
    return {row["event_id"] for row in await owner.fetch("SELECT event_id FROM events WHERE user_id = 'u-1'")}


async def test_of_twins_in_flight_on_two_processes_one_is_accepted(
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


async def test_twins_that_disagree_leave_one_event(two: list[httpx.AsyncClient], owner: Connection) -> None:
    people = ["u-1", "u-2"]
    await add_users(two[0], people)
    for number in range(20):
        pair = [event(f"e-{number}", user_id=each) for each in people]
        answers = await asyncio.gather(
            *(client.post("/events", json=sent) for client, sent in zip(two, pair, strict=True))
        )
        assert sorted(answer.status_code for answer in answers) == [202, 409]
    assert await owner.fetchval("SELECT count(*) FROM events") == 20


async def test_big_batches_and_exclusive_locks_never_wait_in_a_circle(
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
                await consent_lock.exclude(connection, random.sample(people, 300))
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
    """The two statements must be two: one that takes the lock and reads sees what was before it waited."""
    await owner.execute("INSERT INTO consents VALUES ('u-1', 'data_collection', true)")
    read = "SELECT granted FROM consents WHERE user_id = 'u-1'"
    async with database.transaction() as withdrawal:
        await consent_lock.exclude(withdrawal, ["u-1"])
        await withdrawal.execute("UPDATE consents SET granted = false")

        async def ingest() -> bool:
            async with database.transaction() as connection:
                await consent_lock.share(connection, ["u-1"])
                return bool(await connection.fetchval(read))

        waiting = asyncio.create_task(ingest())
        await asyncio.sleep(0.1)
        assert not waiting.done()
    assert await waiting is False


async def test_partitions_are_made_by_two_at_once_without_an_error(database: Database, owner: Connection) -> None:
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


async def test_a_stop_loses_nothing_that_was_answered(
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
