"""No request holds the event loop: another connection gets its answers meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from api.parsing import MOST_VALUES
from models.vocabulary import Role
from runtime.database import Database
from runtime.embedded.ports import free_port
from runtime.settings import Settings
from tests.support.builders import user
from tests.support.events import add_user, codes, event, statuses
from tests.support.http import Clients, assert_problem, bearer, field_errors, new_key
from tests.support.processes import PerennialProcess

BODY = 8 * 1024 * 1024
JSON = {"Content-Type": "application/json"}
LONG = "a" * 4_000_000
CROWD = b"{" + b",".join(b'"%04x":1' % number for number in range(400)) + b"}"
GENEROUS = 0.4
"""Seconds. The old code held the loop for 1 to 11 seconds; other processes of this machine may hold it too."""


def filled(beginning: bytes, unit: bytes, end: bytes) -> bytes:
    """A body of almost the permitted size."""
    return beginning + unit * ((BODY - len(beginning) - len(end)) // len(unit)) + end


def events_of(count: int, **changes: Any) -> bytes:
    return json.dumps({"events": [event(**changes) for _ in range(count)]}).encode()


WORST: dict[str, tuple[str, Callable[[], bytes]]] = {
    "too many items after a number that is too large": (
        "/events/batch",
        lambda: filled(b'{"events":[1e999', b",{}", b"]}"),
    ),
    "too many profiles after a number that is too large": (
        "/users/batch",
        lambda: filled(b'{"users":[1e999', b",{}", b"]}"),
    ),
    "too many values in one item": ("/events/batch", lambda: filled(b'{"events":[[1', b",[]", b"]]}")),
    "too many values in an event": ("/events", lambda: filled(b'{"event_properties":[1', b",{}", b"]}")),
    "unknown names": ("/events/batch", lambda: b'{"events":[' + b",".join([CROWD] * 2000) + b"]}"),
    "unknown names below": (
        "/users/batch",
        lambda: b'{"users":[' + b",".join([b'{"demographics":' + CROWD + b"}"] * 1000) + b"]}",
    ),
    "one name again and again": ("/events/batch", lambda: filled(b"{", b'"a":1,', b'"b":1}')),
    "errors in properties": (
        "/events/batch",
        lambda: events_of(1000, event_type="transaction.refund", event_properties={"items": [1] * 900}),
    ),
    "a long e-mail address": ("/users", lambda: json.dumps(user(email=LONG)).encode()),
    "a long domain": ("/users", lambda: json.dumps(user(email=f"{LONG}@{LONG}.com")).encode()),
    "a long user id": ("/events", lambda: json.dumps(event(user_id="a." * 2_000_000)).encode()),
    "many digits": ("/events", lambda: filled(b'{"event_id":1', b"0", b"}")),
}


@pytest.fixture(scope="module")
async def served(api_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    settings = api_settings.model_copy(update={"api_port": free_port(), "max_body_bytes": BODY})
    async with PerennialProcess("api", settings, tmp_path_factory.mktemp("api")):
        yield f"http://127.0.0.1:{settings.api_port}"


async def longest_wait(client: httpx.AsyncClient, until: asyncio.Event) -> float:
    longest = 0.0
    while not until.is_set():
        begin = time.perf_counter()
        assert (await client.get("/health/live")).status_code == 200
        longest = max(longest, time.perf_counter() - begin)
    return longest


@pytest.mark.parametrize("name", WORST)
async def test_other_connections_are_answered_meanwhile(name: str, served: str, database: Database) -> None:
    path, body = WORST[name]
    headers = JSON | bearer(await new_key(database, Role.INTEGRATOR))
    done = asyncio.Event()
    async with (
        httpx.AsyncClient(base_url=served, trust_env=False, timeout=60) as other,
        httpx.AsyncClient(base_url=served, trust_env=False, timeout=60) as client,
    ):
        await other.get("/health/live")
        waiting = asyncio.create_task(longest_wait(other, done))
        answer = await client.post(path, content=body(), headers=headers)
        done.set()
        assert await waiting < GENEROUS
    assert answer.status_code in (200, 422), answer.text
    assert len(answer.content) < 2_000_000


async def test_items_are_counted_before_they_are_judged(api: Clients) -> None:
    for path, name, most in (("/events/batch", "events", 2000), ("/users/batch", "users", 1000)):
        for first in ("1e999", "{}", '"\\u0000"', "[[[]]]"):
            for count in (most + 1, MOST_VALUES + 1):
                content = f'{{"{name}": [{first}{",{}" * (count - 1)}]}}'
                answer = await api.integrator.post(path, content=content, headers=JSON)
                assert field_errors(answer) == {(f"/{name}", "too_long")}
    answer = await api.admin.put("/events/types/lesson.finish", json={"schema": {}, "pii": [1] * 51})
    assert field_errors(answer) == {("/pii", "too_long")}


async def test_a_document_has_a_limited_number_of_values(api: Clients) -> None:
    for value, count in ((0, MOST_VALUES), ({}, MOST_VALUES // 2)):
        document: dict[str, Any] = {"a": [value] * count}
        for path in ("/users", "/events", "/workflows/onboarding/execute"):
            assert field_errors(await api.admin.post(path, json=document)) == {("", "too_many_values")}
    answer = await api.admin.post("/users", json={"a": [0] * (MOST_VALUES - 3)})
    assert field_errors(answer) >= {("/a", "unknown_field")}


async def test_each_event_of_a_batch_with_many_values_has_its_own_result(api: Clients) -> None:
    await add_user(api.admin)
    many = {f"p{number}": number for number in range(300)}
    items = [event(f"e-{number}", event_properties=many) for number in range(400)]
    items[1]["event_properties"] = many | {"nul": "a\x00"}
    items[2] = {f"p{number}": 1 for number in range(7000)}
    items[3]["nonsense"] = 1
    items[4]["event_id"] = "\ud83d"
    body = json.dumps({"events": items, "historical": True})
    answer = (await api.integrator.post("/events/batch", content=body, headers=JSON)).json()
    assert statuses(answer) == ["accepted", *["rejected"] * 4, *["accepted"] * 395]
    assert codes(answer)[1:5] == [
        [("/events/1/event_properties/nul", "invalid_characters")],
        [("/events/2", "too_many_errors")],
        [("/events/3/nonsense", "unknown_field")],
        [("/events/4/event_id", "invalid_characters")],
    ]
    kept = (await api.admin.get("/users/u-1/events?limit=400")).json()["data"]
    assert len(kept) == 396
    assert all(each["event_properties"] == many and each["historical"] for each in kept)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda body: body[:-1], "malformed_json"),
        (lambda body: body + b"x", "malformed_json"),
        (lambda body: body.replace(b",{}", b",{},", 1), "malformed_json"),
        (lambda body: body.replace(b",{}", b",{}{}", 1), "malformed_json"),
        (lambda body: body.replace(b",{}", b",NaN", 1), "malformed_json"),
        (lambda body: body.replace(b",{}", b',{"a" 1}', 1), "malformed_json"),
        (lambda body: body.replace(b",{}", b',"\xff"', 1), "malformed_json"),
        (lambda body: body.replace(b",{}", b',"open', 1), "malformed_json"),
        (lambda body: b"[" + body + b"]", "validation_failed"),
    ],
)
async def test_a_damaged_body_with_many_values_is_malformed(
    api: Clients, change: Callable[[bytes], bytes], code: str
) -> None:
    values = b"0," * MOST_VALUES
    body = b'{"users": [{},{}], "other": [' + values + b"0]}"
    assert len(body) < 256 * 1024
    answer = await api.admin.post("/users/batch", content=change(body), headers=JSON)
    assert_problem(answer, 400 if code == "malformed_json" else 422, code)


async def test_the_slow_parser_reads_few_names(api: Clients) -> None:
    # It needs 50 to 100 ms for 99,000 names, and reads what orjson refuses.
    names = ",".join(f'"k{number}":1' for number in range(MOST_VALUES))
    for path in ("/users", "/events"):
        answer = await api.admin.post(path, content=f'{{"a":1e999,{names}}}', headers=JSON)
        assert field_errors(answer) == {("", "too_many_values")}
    assert MOST_VALUES <= 50_000


async def test_a_media_type_and_a_query_are_bounded(api: Clients) -> None:
    answer = await api.admin.post(
        "/users", content=b"{}", headers={"Content-Type": "application/json" + ";" * 60_000}
    )
    assert_problem(answer, 415, "unsupported_media_type")
    answer = await api.admin.get("/users?" + "&".join(f"p{number}" for number in range(9000)))
    assert len(answer.json()["errors"]) == 100
