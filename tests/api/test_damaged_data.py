"""Damaged data keys and values: requests for other people succeed, and no error names data."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from store.connection import Connection
from tests.support.builders import user
from tests.support.events import add_users, codes, event, statuses
from tests.support.http import Clients, assert_problem

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "one byte": lambda key: key[:1],
    "two bytes": lambda key: key[:2],
    "another version": lambda key: b"\x02" + key[1:],
    "a length beyond its end": lambda key: key[:1] + b"\xff" + key[2:],
    "no key id": lambda key: key[:1] + b"\x00" + key[2:],
    "an id that is no text": lambda key: key[:2] + b"\xff" + key[3:],
    "another id": lambda key: key[:2] + b"x" + key[3:],
    "a changed nonce": lambda key: key[:-60] + bytes([key[-60] ^ 1]) + key[-59:],
    "a changed tag": lambda key: key[:-1] + bytes([key[-1] ^ 1]),
    "without its end": lambda key: key[:-1],
    "with more": lambda key: key + b"\x00",
}
NAME = "Ada Lovelace of Nowhere"


async def damage_key(owner: Connection, user_id: str, change: Callable[[bytes], bytes]) -> None:
    wrapped = await owner.fetchval("SELECT wrapped FROM data_keys WHERE subject = $1", user_id)
    await owner.execute("UPDATE data_keys SET wrapped = $2 WHERE subject = $1", user_id, change(wrapped))


def assert_unreadable(response: httpx.Response) -> None:
    assert_problem(response, 500, "data_unreadable")
    assert NAME not in response.text


async def listed(client: httpx.AsyncClient, limit: int = 1000) -> list[str]:
    """The user ids of all pages."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        response = await client.get("/users", params={"limit": limit, **cursor})
        assert response.status_code == 200, response.text
        page = response.json()
        found += [each["user_id"] for each in page["data"]]
        if page["pagination"]["next_cursor"] is None:
            return found
        assert len(page["data"]) == limit
        cursor = {"cursor": page["pagination"]["next_cursor"]}


@pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_data_key_affects_requests_for_its_person_alone(
    api: Clients, owner: Connection, change: Callable[[bytes], bytes]
) -> None:
    await add_users(api.admin, ["a", "b", "c", "d"])
    await api.admin.patch("/users/b", json={"name": NAME})
    await damage_key(owner, "b", change)
    assert await listed(api.admin) == ["a", "c", "d"]
    assert await listed(api.admin, limit=1) == ["a", "c", "d"]
    assert_unreadable(await api.admin.get("/users/b"))
    assert_unreadable(await api.admin.patch("/users/b", json={"name": "New"}))
    assert_unreadable(await api.admin.get("/users/b/events"))
    assert_unreadable(await api.admin.get("/users/b/transactions"))
    assert_unreadable(await api.admin.get("/users/b/export"))
    assert_unreadable(await api.integrator.post("/events", json=event(user_id="b")))
    assert_problem(await api.admin.post("/users", json=user("b")), 409, "user_exists")
    answer = await api.admin.post("/users/batch", json={"users": [user("a"), user("b"), user("new")]})
    assert [each["status"] for each in answer.json()["results"]] == ["updated", "rejected", "created"]
    assert [each["code"] for each in answer.json()["results"][1]["errors"]] == ["data_unreadable"]
    events = {"events": [event(user_id=each) for each in ("a", "b", "c")]}
    sent = (await api.integrator.post("/events/batch", json=events)).json()
    assert statuses(sent) == ["accepted", "rejected", "accepted"]
    assert codes(sent)[1] == [("/events/1/user_id", "data_unreadable")]


async def test_a_search_that_finds_a_damaged_profile_says_so(api: Clients, owner: Connection) -> None:
    await add_users(api.admin, ["a", "b"])
    await api.admin.patch("/users/b", json={"email": "a@example.com"})
    await damage_key(owner, "a", DAMAGES["empty"])
    search = {"email": "a@example.com"}
    found = (await api.admin.post("/users/search", json=search)).json()
    assert [each["user_id"] for each in found["data"]] == ["b"]
    await damage_key(owner, "b", DAMAGES["empty"])
    assert_unreadable(await api.admin.post("/users/search", json=search))


async def test_a_damaged_value_affects_requests_for_its_person_alone(api: Clients, owner: Connection) -> None:
    await add_users(api.admin, ["a", "b", "c"])
    await owner.execute("UPDATE users SET name = $1 WHERE user_id = 'b'", b"\x01 no name")
    assert await listed(api.admin) == ["a", "c"]
    assert_unreadable(await api.admin.get("/users/b"))
    answer = await api.admin.post("/users/batch", json={"users": [user("b"), user("c")]})
    assert [each["status"] for each in answer.json()["results"]] == ["rejected", "updated"]


async def test_two_events_of_a_person_whose_bodies_were_swapped_are_not_shown(
    api: Clients, owner: Connection
) -> None:
    await add_users(api.admin, ["a"])
    for each in ("e-1", "e-2", "e-3"):
        assert (await api.integrator.post("/events", json=event(each, user_id="a"))).status_code == 202
    await owner.execute(
        """UPDATE events SET body = other.body FROM (SELECT event_id, body FROM events) AS other
            WHERE (events.event_id, other.event_id) IN (('e-1', 'e-2'), ('e-2', 'e-1'))"""
    )
    shown = (await api.admin.get("/users/a/events")).json()["data"]
    assert [each["event_id"] for each in shown] == ["e-3"]


async def test_a_damaged_event_is_left_out_of_its_list_and_of_the_export(api: Clients, owner: Connection) -> None:
    await add_users(api.admin, ["a"])
    ids = ["e-1", "e-2", "e-3"]
    for each in ids:
        assert (await api.integrator.post("/events", json=event(each, user_id="a"))).status_code == 202
    await owner.execute("UPDATE events SET body = $1 WHERE event_id = 'e-2'", b"")
    shown = (await api.admin.get("/users/a/events")).json()["data"]
    assert sorted(each["event_id"] for each in shown) == ["e-1", "e-3"]
    exported = (await api.admin.get("/users/a/export")).json()["events"]
    assert sorted(each["event_id"] for each in exported) == ids
    assert [each["event_properties"] for each in exported if each["event_id"] == "e-2"] == [None]


async def test_a_search_does_not_show_a_person_whose_index_was_swapped(api: Clients, owner: Connection) -> None:
    for user_id in ("u-1", "u-2"):
        await api.admin.post("/users", json=user(user_id))
    await owner.execute("UPDATE users SET email_index = (SELECT email_index FROM users WHERE user_id = 'u-1')")
    search = {"email": "u-1@example.com"}
    found = (await api.admin.post("/users/search", json=search)).json()
    assert [each["user_id"] for each in found["data"]] == ["u-1"]
    await owner.execute("DELETE FROM users WHERE user_id = 'u-1'")
    assert_unreadable(await api.admin.post("/users/search", json=search))
