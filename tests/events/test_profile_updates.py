"""`user.profile_update` changes the profile under the rules of `PATCH`, in any order of arrival, exactly once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from activities.projector import Found
from models.errors import StillUnusableError
from models.rules.sharding import shard_of
from privacy.encryption import Cipher
from runtime.database import Database
from store.connection import Connection
from store.consents import locks
from store.events import poison
from store.users import users
from testing.events import project
from tests.support.events import add_user, batch, codes, event, moment, statuses
from tests.support.http import Clients, assert_problem
from tests.support.locks import until_blocked
from tests.support.log import Log
from tests.support.redactions import due


@pytest.fixture
def log(database: Database, cipher: Cipher) -> Log:
    return Log(database, cipher)


def update(changes: Any, *, hours: float = 1, **more: Any) -> dict[str, Any]:
    """A profile update some hours ago."""
    whole = {"event_properties": {"changes": changes}, **more}
    return event(event_type="user.profile_update", timestamp=moment(hours=hours), **whole)


async def projected(log: Log, user_id: str = "u-1") -> None:
    """Project the events of a user's shard."""
    await project(log.database, log.cipher, (), user_id)


async def profile(api: Clients, user_id: str = "u-1") -> dict[str, Any]:
    document: dict[str, Any] = (await api.admin.get(f"/users/{user_id}")).json()
    return document


async def version(owner: Connection) -> int:
    found: int = await owner.fetchval("SELECT version FROM users WHERE user_id = 'u-1'")
    return found


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"user_id": "u-2"}, "/user_id", "read_only"),
        ({"user_id": "u-1"}, "/user_id", "read_only"),
        ({"consents": {"marketing": True}}, "/consents", "read_only"),
        ({"consents": None}, "/consents", "read_only"),
        ({"email": "nobody"}, "/email", "invalid_email"),
        ({"email": None}, "/email", "required"),
        ({"demographics": {"country": "Germany"}}, "/demographics/country", "unknown_country"),
        ({"demographics": {"age": "34"}}, "/demographics/age", "invalid_type"),
        ({"privacy_preferences": {"email": False}}, "/privacy_preferences/email", "unknown_field"),
        ({"behavior": {}}, "/behavior", "read_only"),
        ({"theme": "dark"}, "/theme", "unknown_field"),
        ([], "", "invalid_type"),
    ],
)
async def test_changes_are_validated_like_the_body_of_a_patch(
    api: Clients, changes: Any, pointer: str, code: str
) -> None:
    await add_user(api.admin)
    answer = await batch(api, update(changes), update({"name": "Grace"}))
    assert statuses(answer) == ["rejected", "accepted"]
    [[error], _] = codes(answer)
    assert error == (f"/events/0/event_properties/changes{pointer}", code)
    if isinstance(changes, dict) and not {"user_id", "consents"} & changes.keys():
        patched = await api.admin.patch("/users/u-1", json=changes)
        assert (patched.json()["errors"][0]["pointer"], patched.json()["errors"][0]["code"]) == (pointer, code)


async def test_a_refused_consent_says_where_consents_are_changed(api: Clients) -> None:
    await add_user(api.admin)
    answer = await api.integrator.post("/events", json=update({"consents": {"marketing": True}}))
    assert_problem(answer, 422, "validation_failed")
    assert "PUT /users/{user_id}/consents/{purpose}" in answer.json()["errors"][0]["message"]


async def test_an_event_updates_what_it_carries_and_nothing_else(
    api: Clients, log: Log, owner: Connection
) -> None:
    await add_user(api.admin, demographics={"city": "Berlin", "gender": "f"})
    before, first = await profile(api), await version(owner)
    changes = {
        "name": "Grace Hopper",
        "lifecycle_stage": "active",
        "demographics": {"country": "us", "city": None},
        "transactions": {"subscription_tier": "pro"},
    }
    without = update(None, event_properties={"fields": ["name"], "theme": "dark"})
    await batch(api, update(changes), without, event(session_id="s-2"))
    await projected(log)
    after = await profile(api)
    assert (after["name"], after["lifecycle_stage"]) == ("Grace Hopper", "active")
    assert {name for name, value in after["demographics"].items() if value} == {"country", "gender"}
    assert after["demographics"]["country"] == "US"
    assert after["transactions"]["subscription_tier"] == "pro"
    assert after["email"] == before["email"]
    assert after["behavior"]["session_count"] == 2
    assert await version(owner) == first + 1


async def test_many_updates_of_a_batch_are_one_write_and_one_without_effect_is_none(
    api: Clients, log: Log, owner: Connection
) -> None:
    await add_user(api.admin, lifecycle_stage="active")
    first = await version(owner)
    await batch(api, *(update({"name": f"Ada {number}"}, hours=9 - number) for number in range(9)))
    await projected(log)
    assert ((await profile(api))["name"], await version(owner)) == ("Ada 8", first + 1)
    tag = (await api.admin.get("/users/u-1")).headers["etag"]
    await batch(api, update({"name": "Ada 8"}, session_id="s-1"), update({"name": "Ada 3"}, hours=6))
    await projected(log)
    assert await version(owner) == first + 1
    assert (await api.admin.get("/users/u-1")).headers["etag"].split("-")[:2] == tag.split("-")[:2]


def _by_patch(value: str) -> tuple[str, str, Any]:
    return "PATCH", "/users/u-1", {"name": value}


def _by_batch(value: str) -> tuple[str, str, Any]:
    return "POST", "/users/batch", {"users": [{"user_id": "u-1", "name": value}]}


@pytest.mark.parametrize("request_of", [_by_patch, _by_batch])
@pytest.mark.parametrize("value", ["Grace", "Ada"])
async def test_a_late_event_does_not_replace_what_a_newer_request_has_sent(
    api: Clients, log: Log, request_of: Callable[[str], tuple[str, str, Any]], value: str
) -> None:
    """Also if the request sent the value that was stored already."""
    await add_user(api.admin)
    await batch(api, update({"name": "Ada"}, hours=5))
    await projected(log)
    method, path, document = request_of(value)
    assert (await api.integrator.request(method, path, json=document)).status_code == 200
    late = update({"name": "Too late", "transactions": {"subscription_tier": "pro"}}, hours=4)
    await batch(api, late, historical=True)
    await projected(log)
    after = await profile(api)
    assert (after["name"], after["transactions"]["subscription_tier"]) == (value, "pro")


async def test_a_clock_that_is_ahead_wins_over_nothing_that_happens_after_the_receipt(
    api: Clients, log: Log
) -> None:
    await add_user(api.admin)
    await batch(api, update({"name": "From tomorrow"}, hours=-20))
    await projected(log)
    assert (await profile(api))["name"] == "From tomorrow"
    await batch(api, update({"name": "Now"}, hours=-19))
    await projected(log)
    assert (await profile(api))["name"] == "Now"
    await api.integrator.patch("/users/u-1", json={"name": "Later"})
    await projected(log)
    assert (await profile(api))["name"] == "Later"


async def test_any_order_of_arrival_gives_the_same_profile(api: Clients, log: Log) -> None:
    made = [
        ({"name": "Ada", "demographics": {"city": "Bonn", "gender": "f"}}, 4),
        ({"name": "Grace", "demographics": {"city": None}}, 3),
        ({"demographics": {"city": "Rome"}, "privacy_preferences": {"gender": False}}, 2),
    ]
    orders = list(itertools.permutations(made))
    for number, order in enumerate(orders):
        await add_user(api.admin, f"u-{number}")
        for changes, hours in order:
            await batch(api, update(changes, hours=hours, user_id=f"u-{number}"))
            await projected(log, f"u-{number}")
    found = [await profile(api, f"u-{number}") for number in range(len(orders))]
    assert {(each["name"], each["demographics"]["city"], each["demographics"]["gender"]) for each in found} == {
        ("Grace", "Rome", None)
    }


async def test_demographics_are_dropped_if_the_consent_was_withdrawn_before_the_projection(
    api: Clients, log: Log
) -> None:
    await add_user(api.admin, demographics={"gender": "f"})
    await batch(api, update({"name": "Grace", "demographics": {"city": "Rome", "gender": None}}))
    await api.admin.delete("/users/u-1/consents/data_collection")
    await projected(log)
    after = await profile(api)
    assert (after["name"], after["demographics"]["city"], after["demographics"]["gender"]) == ("Grace", None, None)


async def test_an_opt_out_by_an_event_removes_the_attribute_everywhere_and_one_allows_it_again(
    api: Clients, log: Log, database: Database
) -> None:
    await add_user(api.admin, demographics={"city": "Berlin"})
    await batch(api, event(location={"city": "Berlin"}), update({"privacy_preferences": {"city": False}}, hours=2))
    await projected(log)
    assert [each.user_id for each in await due(database)] == ["u-1"]
    assert (await profile(api))["demographics"]["city"] is None
    # The preference is no value of the attribute, so ingest doesn't remove it from the event.
    await batch(api, update({"privacy_preferences": {"city": True}}, hours=1))
    await projected(log)
    assert (await profile(api))["privacy_preferences"] == {"city": True}


async def test_an_event_closes_the_account_and_waits_for_a_withdrawal_without_a_deadlock(
    api: Clients, log: Log, owner: Connection
) -> None:
    await add_user(api.admin)
    await batch(api, update({"account_status": "closed", "privacy_preferences": {"age": False}}))
    async with asyncio.timeout(30):
        async with log.database.transaction() as withdrawing:
            await users.lock_one(withdrawing, log.cipher, "u-1")
            closing = asyncio.create_task(log.follower(shard_of("u-1")).step())
            await until_blocked(log.database, 1)
            await locks.exclude(withdrawing, ["u-1"])
        assert await closing is Found.SOME  # after a deadlock it would be None
    assert (await profile(api))["account_status"] == "closed"
    assert await owner.fetchval("SELECT closed_at FROM users WHERE user_id = 'u-1'") is not None


async def test_an_account_that_an_event_closed_is_not_opened_by_an_earlier_change(api: Clients, log: Log) -> None:
    await add_user(api.admin)
    await batch(
        api, event(event_type="user.account_deletion"), update({"account_status": "active", "name": "Grace"})
    )
    await projected(log)
    await batch(api, update({"account_status": "active"}, hours=0.5))
    await projected(log)
    after = await profile(api)
    assert (after["account_status"], after["name"]) == ("closed", "Grace")


async def test_a_change_of_a_damaged_profile_is_set_aside_and_replayed_once(
    api: Clients, log: Log, owner: Connection
) -> None:
    await add_user(api.admin)
    await add_user(api.admin, "u-3")
    assert shard_of("u-1") == shard_of("u-3")
    whole = await owner.fetchval("SELECT email FROM users WHERE user_id = 'u-1'")
    await owner.execute("UPDATE users SET email = '\\x00' WHERE user_id = 'u-1'")
    await batch(api, update({"name": "Grace"}), update({"name": "Grace"}, user_id="u-3"), event(session_id="s-2"))
    await projected(log)
    assert (await profile(api, "u-3"))["name"] == "Grace"
    [(poison_id, error_type)] = await owner.fetch("SELECT poison_id, error_type FROM poison_events")
    assert error_type == "DecryptionError"
    with pytest.raises(StillUnusableError):
        async with log.database.transaction() as connection:
            await poison.replay(connection, log.cipher, (), poison_id)
    await owner.execute("UPDATE users SET email = $1 WHERE user_id = 'u-1'", whole)
    async with log.database.transaction() as connection:
        await poison.replay(connection, log.cipher, (), poison_id)
    after = await profile(api)
    assert (after["name"], after["behavior"]["session_count"], await version(owner)) == ("Grace", 2, 2)


async def test_nothing_of_a_batch_that_rolls_back_remains(api: Clients, log: Log, owner: Connection) -> None:
    """A worker that dies after it wrote the change, and before the commit, leaves both profile and cursor."""
    await add_user(api.admin)
    await batch(api, update({"name": "Grace"}))
    async with asyncio.timeout(30):
        async with log.database.transaction() as holder:
            await holder.execute("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
            projecting = asyncio.create_task(log.follower(shard_of("u-1")).step())
            await until_blocked(log.database, 1)
            projecting.cancel()
            await asyncio.wait([projecting])
    assert ((await profile(api))["name"], await version(owner)) == ("Ada Lovelace", 1)
    await projected(log)
    await projected(log)
    assert ((await profile(api))["name"], await version(owner)) == ("Grace", 2)


async def test_no_event_opens_a_closed_account_and_a_request_does(api: Clients, log: Log) -> None:
    await add_user(api.admin)
    await batch(api, event(event_type="user.account_deletion", timestamp=moment(hours=2)))
    await projected(log)
    await batch(api, update({"account_status": "active", "name": "Grace"}, hours=1))
    await projected(log)
    after = await profile(api)
    assert (after["account_status"], after["name"]) == ("closed", "Grace")
    await api.admin.patch("/users/u-1", json={"account_status": "active"})
    await batch(api, update({"account_status": "suspended"}, hours=0.5))
    await projected(log)
    assert (await profile(api))["account_status"] == "active"
