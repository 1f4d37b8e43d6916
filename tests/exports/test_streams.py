"""Exports are streamed: what a slow reader blocks, and how an unfinished export ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from models.vocabulary import Role
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.embedded.ports import free_port
from runtime.settings import Settings
from store.connection import Connection
from store.users import data_keys
from tests.support.events import add_user, event
from tests.support.http import BASE_URL, Clients, bearer, new_key
from tests.support.processes import PerennialProcess

EVENTS = 2000
BULK = 20_000
"""Bytes of each event; all of them together are more than the sockets' buffers hold."""


@pytest.fixture(scope="module")
async def process(
    api_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[PerennialProcess, str]]:
    """An API process with one connection for all requests, and its address."""
    settings = api_settings.model_copy(update={"api_port": free_port(), "database_pool_size": 1})
    async with PerennialProcess("api", settings, tmp_path_factory.mktemp("api")) as process:
        yield process, f"http://127.0.0.1:{settings.api_port}"


@pytest.fixture
async def narrow(
    process: tuple[PerennialProcess, str], database: Database
) -> AsyncIterator[tuple[httpx.AsyncClient, PerennialProcess]]:
    """An admin's client of the process, on an emptied database."""
    serving, address = process
    headers = bearer(await new_key(database, Role.ADMIN))
    async with httpx.AsyncClient(base_url=address, headers=headers, trust_env=False, timeout=60) as client:
        yield client, serving


@pytest.fixture
async def long(narrow: tuple[httpx.AsyncClient, PerennialProcess], database: Database, cipher: Cipher) -> str:
    """A person with many events, each with a long text."""
    client, _ = narrow
    await add_user(client)
    assert (await client.post("/events", json=event("e-0"))).status_code == 202
    ids = [f"e-{number}" for number in range(1, EVENTS)]
    async with database.transaction() as connection:
        key = await data_keys.require(connection, cipher, "u-1")
        await connection.execute(
            """INSERT INTO events (event_id, user_id, event_type, timestamp, session_id, shard, generation,
                                   historical, body)
               SELECT new.id, user_id, event_type, timestamp, session_id, shard, generation, historical, new.body
                 FROM events, unnest($1::text[], $2::bytea[]) AS new (id, body)""",
            ids,
            [key.encrypt_json("events.body", {"event_properties": {"text": "x" * BULK}}, each) for each in ids],
        )
    return "/users/u-1/export"


async def test_a_slow_reader_holds_no_connection_and_a_cut_export_is_no_valid_document(
    narrow: tuple[httpx.AsyncClient, PerennialProcess], long: str, owner: Connection
) -> None:
    """The reader pauses, the connection serves others, the key is destroyed: the response then breaks off."""
    client, process = narrow
    async with client.stream("GET", long) as slow:
        assert slow.status_code == 200
        parts = slow.aiter_bytes()
        await anext(parts)
        for _ in range(3):
            assert (await client.get("/users/u-1")).status_code == 200
        await owner.execute("UPDATE data_keys SET wrapped = NULL, destroyed_at = now() WHERE subject = 'u-1'")
        with pytest.raises(httpx.RemoteProtocolError):
            async for _ in parts:
                pass
    assert "response aborted" in process.log()
    assert "UserErasedError" in process.log()
    assert "unexpected failure" not in process.log()
    assert (await client.get(long)).status_code == 410


async def test_a_reader_that_disconnects_leaves_nothing_behind(
    narrow: tuple[httpx.AsyncClient, PerennialProcess], long: str
) -> None:
    client, process = narrow
    for _ in range(5):
        async with client.stream("GET", long) as slow:
            await anext(slow.aiter_bytes())
    whole = await client.get(long)
    assert len(whole.json()["events"]) == EVENTS
    assert "unexpected failure" not in process.log()


async def test_the_audit_row_is_committed_before_the_first_byte(
    app: FastAPI, api: Clients, owner: Connection
) -> None:
    """Another connection selects it when the response begins."""
    await add_user(api.admin)
    found: list[Any] = []

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def watch(message: Any) -> None:
            if message["type"] == "http.response.start":
                found.append(await owner.fetchrow("SELECT * FROM audit_log WHERE request_id = 'r-1'"))
            await send(message)

        await app(scope, receive, watch)

    headers = {**api.operator.headers, "X-Request-Id": "r-1"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(watched), base_url=BASE_URL, headers=headers
    ) as client:
        document = (await client.get("/users/u-1/export")).json()
    [row] = found
    assert (row["action"], row["role"], row["user_id"], row["outcome"]) == (
        "users.export",
        "operator",
        "u-1",
        "done",
    )
    assert {"email", "demographics.city", "events.body", "messages.recipient", "users.closed_at"} <= {
        *row["fields"]
    }
    assert row["details"] == '{"masked": true}'
    assert document["audit_log"][-1]["request_id"] == "r-1", "an export holds its own row"


async def test_exports_at_once_share_one_connection(
    narrow: tuple[httpx.AsyncClient, PerennialProcess], long: str
) -> None:
    client, _ = narrow
    answers = await asyncio.gather(*(client.get(long) for _ in range(4)))
    assert {len(answer.json()["events"]) for answer in answers} == {EVENTS}
