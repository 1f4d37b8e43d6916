"""Two processes ingest while a user withdraws consent, through each API call that can withdraw it.

Each sender also sends events of a type under contract. These are stored throughout, and after the withdrawal they
don't rest on the consent.

The races search for unknown interleavings. Other tests hold an ingest, or a withdrawal, and show that the other
one waits for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from runtime.database import Database
from store.connection import Connection
from store.consents import locks
from tests.support.events import add_user, add_users, event
from tests.support.http import assert_problem
from tests.support.locks import until_blocked

ROUNDS = 10
SENDERS = 4
BATCH = 40
OWED = "billing.payment_failed"
USER = "/users/u-1"
COLLECTION = "/users/u-1/consents/data_collection"


@dataclass(frozen=True)
class Request:
    """The events that are sent."""

    method: str
    path: str
    document: Mapping[str, Any] | None = None

    async def send(self, client: httpx.AsyncClient) -> None:
        answer = await client.request(self.method, self.path, json=self.document)
        assert answer.status_code == 200, answer.text
        assert answer.json().get("rejected", 0) == 0, answer.text


def in_a_batch(**changes: Any) -> Request:
    """A change of the user as an item of a batch of profiles."""
    return Request("POST", "/users/batch", {"users": [{"user_id": "u-1", **changes}]})


GRANT = Request("PUT", COLLECTION, {"granted": True})
WITHDRAWALS = {
    "DELETE": Request("DELETE", COLLECTION),
    "PUT false": Request("PUT", COLLECTION, {"granted": False}),
    "PATCH false": Request("PATCH", USER, {"consents": {"data_collection": False}}),
    "PATCH null": Request("PATCH", USER, {"consents": {"data_collection": None}}),
    "PATCH all null": Request("PATCH", USER, {"consents": None}),
    "batch": in_a_batch(consents={"data_collection": False}),
    "batch of consents": Request(
        "POST",
        "/consents/batch",
        {"consents": [{"user_id": "u-1", "purpose": "data_collection", "granted": False}]},
    ),
}
ALLOW = Request("PATCH", USER, {"privacy_preferences": {"country": None}})
PREFERENCES = {
    "PATCH": Request("PATCH", USER, {"privacy_preferences": {"country": False}}),
    "batch": in_a_batch(privacy_preferences={"country": False}),
}


@dataclass
class Race:
    """One round: senders send until the withdrawal was answered, and once more after it."""

    others: list[str]
    withdrawn: bool = False
    accepted: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    owed: list[str] = field(default_factory=list)
    """Events under contract, sent at any time."""
    owed_late: list[str] = field(default_factory=list)

    async def send(self, client: httpx.AsyncClient, size: int | None) -> None:
        while True:
            after = self.withdrawn
            accepted, owed = await _send(client, size, self.others)
            (self.late if after else self.accepted).extend(accepted)
            (self.owed_late if after else self.owed).append(owed)
            if after:
                return

    @asynccontextmanager
    async def run(self, two: list[httpx.AsyncClient], withdrawal: Request, through: int) -> AsyncIterator[None]:
        """Senders on both processes; the body runs after the withdrawal was answered, while they send."""
        async with asyncio.TaskGroup() as senders:
            for number in range(SENDERS):
                senders.create_task(self.send(two[number % 2], BATCH if number // 2 else None))
            await asyncio.sleep(random.uniform(0.005, 0.025))
            await withdrawal.send(two[through % 2])
            self.withdrawn = True
            yield


async def _send(client: httpx.AsyncClient, size: int | None, others: list[str]) -> tuple[list[str], str]:
    """Send events of the user, alone or in a batch with others'.

    Returns the accepted ids, and the id of one under contract, which must be accepted.
    """
    owed = event(event_type=OWED)
    if size is None:
        answer, taken = await client.post("/events", json=_event()), await client.post("/events", json=owed)
        assert answer.status_code in (202, 403)
        assert taken.status_code == 202, taken.text
        return [answer.json()["event_id"]] if answer.status_code == 202 else [], owed["event_id"]
    batch = [event(user_id=random.choice(others)) for _ in range(size)]
    mine = {place: _event() for place in random.sample(range(size), 3)}
    batch = [*(mine.get(place, each) for place, each in enumerate(batch)), owed]
    answer = await client.post("/events/batch", json={"events": batch})
    assert answer.status_code == 202, answer.text
    results = answer.json()["results"]
    assert results[-1]["status"] == "accepted"
    accepted = [each["event_id"] for each in results if each["index"] in mine and each["status"] == "accepted"]
    return accepted, owed["event_id"]


def _event() -> dict[str, Any]:
    return event(location={"country": "DE"})


@pytest.fixture
async def race(two: list[httpx.AsyncClient]) -> Race:
    """A user, and others to share batches with."""
    others = [f"o-{number}" for number in range(200)]
    await add_user(two[0])
    await add_users(two[0], others)
    await _declare(two[0])
    return Race(others)


async def _declare(client: httpx.AsyncClient) -> None:
    declared = {"schema": {}, "basis": "contract", "basis_reason": "Invoices are paid under a contract."}
    assert (await client.put(f"/events/types/{OWED}", json=declared)).status_code == 201


@pytest.mark.parametrize("way", WITHDRAWALS)
async def test_no_event_is_accepted_or_stored_after_a_withdrawal_was_answered(
    two: list[httpx.AsyncClient], owner: Connection, race: Race, way: str
) -> None:
    accepted_in_all = 0
    for number in range(ROUNDS):
        await GRANT.send(two[1])
        this = Race(race.others)
        async with this.run(two, WITHDRAWALS[way], number):
            at_the_answer = await _stored(owner, "user_id = 'u-1' AND basis = 'consent'")
        assert this.late == []
        assert await _stored(owner, "user_id = 'u-1' AND basis = 'consent'") == at_the_answer
        assert set(this.accepted) <= at_the_answer
        assert {*this.owed, *this.owed_late} <= await _stored(owner, "user_id = 'u-1'")
        assert set(this.owed_late) <= await _stored(owner, "user_id = 'u-1' AND basis = 'contract'")
        assert await _in_the_order_of_their_times(owner)
        accepted_in_all += len(this.accepted)
    assert accepted_in_all > ROUNDS


@pytest.mark.parametrize("way", PREFERENCES)
async def test_no_forbidden_attribute_is_stored_after_the_preference_was_answered(
    two: list[httpx.AsyncClient], owner: Connection, race: Race, way: str
) -> None:
    with_country = 0
    for number in range(ROUNDS):
        await ALLOW.send(two[1])
        this = Race(race.others)
        async with this.run(two, PREFERENCES[way], number):
            at_the_answer = await _stored(owner, "user_id = 'u-1' AND dimensions ? 'country'")
        assert await _stored(owner, "user_id = 'u-1' AND dimensions ? 'country'") == at_the_answer
        assert this.late, "the events themselves go on"
        with_country += len(set(this.accepted) & at_the_answer)
    assert with_country, "what is allowed is stored"


@pytest.mark.parametrize("way", [*WITHDRAWALS, *(f"preference by {each}" for each in PREFERENCES)])
async def test_a_withdrawal_is_answered_after_the_ingests_that_had_begun(
    two: list[httpx.AsyncClient], owner: Connection, database: Database, way: str
) -> None:
    await add_user(two[0])
    withdrawal = WITHDRAWALS.get(way) or PREFERENCES[way.removeprefix("preference by ")]
    async with owner.transaction():
        await owner.execute(
            "LOCK TABLE event_ids IN ACCESS EXCLUSIVE MODE"
        )  # ingest has read consents, and writes there
        ingest = asyncio.create_task(two[0].post("/events", json=_event()))
        await until_blocked(database, 1)
        answer = asyncio.create_task(withdrawal.send(two[1]))
        await until_blocked(database, 2)
        assert not answer.done()
    await answer
    assert await _stored(owner, "user_id = 'u-1'") == {(await ingest).json()["event_id"]}


@pytest.mark.parametrize("size", [None, 1])
async def test_an_ingest_that_waited_for_a_withdrawal_sees_it(
    two: list[httpx.AsyncClient], owner: Connection, database: Database, size: int | None
) -> None:
    await add_user(two[0])
    await add_user(two[0], "o-1")
    await _declare(two[0])
    owed = event(event_type=OWED)
    async with database.transaction() as withdrawal:
        await withdrawal.execute("UPDATE consents SET granted = false WHERE user_id = 'u-1'")
        await locks.exclude(withdrawal, ["u-1"])
        batch = {"events": [event(user_id="o-1"), _event(), owed]}
        ingest = asyncio.create_task(
            two[0].post("/events/batch", json=batch) if size else two[0].post("/events", json=_event())
        )
        await until_blocked(database, 1)
    answer = await ingest
    if size:
        assert [each["status"] for each in answer.json()["results"]] == ["accepted", "rejected", "accepted"]
    else:
        assert_problem(answer, 403, "consent_required")
    assert await _stored(owner, "user_id = 'u-1' AND basis = 'consent'") == set()
    assert await _stored(owner, "user_id = 'u-1'") == ({owed["event_id"]} if size else set())


async def _stored(owner: Connection, where: str) -> set[str]:
    return {row["event_id"] for row in await owner.fetch(f"SELECT event_id FROM events WHERE {where}")}


async def _in_the_order_of_their_times(owner: Connection) -> bool:
    """Whether the history ascends, and each event with consent was received while the consent stood."""
    return bool(
        await owner.fetchval(
            """
            WITH said AS (
                SELECT granted, recorded_at, lead(recorded_at, 1, 'infinity') OVER (ORDER BY record_id) AS until
                FROM consent_history WHERE user_id = 'u-1' AND purpose = 'data_collection'
            )
            SELECT (SELECT bool_and(recorded_at < until) FROM said)
                   AND NOT EXISTS (
                       SELECT FROM events e WHERE e.user_id = 'u-1' AND e.basis = 'consent' AND NOT EXISTS (
                           SELECT FROM said s
                           WHERE s.granted AND e.received_at >= s.recorded_at AND e.received_at < s.until))
            """
        )
    )
