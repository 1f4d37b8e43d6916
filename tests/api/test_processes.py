"""Guarantees across two API processes, and how a process starts and stops."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.server import serve
from models.vocabulary import Role
from runtime.database import Database
from runtime.embedded.certificates import ensure_certificate
from runtime.embedded.ports import free_port
from runtime.settings import Settings
from tests.support.builders import user
from tests.support.events import event
from tests.support.http import assert_problem, bearer, field_errors, new_key
from tests.support.processes import PerennialProcess


@dataclass(frozen=True)
class Served:
    """An API process and its client."""

    process: PerennialProcess
    client: httpx.AsyncClient


@pytest.fixture(scope="module")
async def two(
    api_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Served, Served]]:
    """Two API processes on one database."""
    async with AsyncExitStack() as stack:

        async def serve() -> Served:
            settings = api_settings.model_copy(update={"api_port": free_port()})
            process = PerennialProcess("api", settings, tmp_path_factory.mktemp("api"))
            await stack.enter_async_context(process)
            address = f"http://127.0.0.1:{settings.api_port}"
            client = httpx.AsyncClient(base_url=address, trust_env=False, timeout=30)
            return Served(process, await stack.enter_async_context(client))

        yield await serve(), await serve()


async def test_the_limit_is_exact_over_two_processes(two: tuple[Served, Served], database: Database) -> None:
    headers = bearer(await new_key(database, Role.ADMIN, rate_limit=None))
    answers = await asyncio.gather(
        *(two[number % 2].client.get("/users", headers=headers) for number in range(150))
    )
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (100, 50)
    remaining = sorted(answer.headers["ratelimit"] for answer in answers if answer.status_code == 200)
    assert len({each.split(";")[1] for each in remaining}) == 100, "each request has its own number"


async def test_a_revocation_applies_at_once_in_the_other_process(
    two: tuple[Served, Served], database: Database
) -> None:
    first, second = two
    admin = bearer(await new_key(database, Role.ADMIN))
    created = await first.client.post("/keys", json={"name": "x", "role": "analyst"}, headers=admin)
    key = bearer(created.json()["key"])
    assert (await second.client.get("/users", headers=key)).status_code == 200
    assert (await first.client.delete(f"/keys/{created.json()['id']}", headers=admin)).status_code == 204
    assert_problem(await second.client.get("/users", headers=key), 401, "unauthenticated")


@pytest.mark.slow
async def test_a_changed_event_type_holds_for_the_next_event_in_each_process(
    two: tuple[Served, Served], database: Database
) -> None:
    """Both processes have the type in their caches: each takes every change from the other and from itself."""
    admin = bearer(await new_key(database, Role.ADMIN))
    document = user("u-1", consents={"data_collection": True})
    assert (await two[0].client.post("/users", json=document, headers=admin)).status_code == 201
    for number in range(12):
        declaring, asked = two[number % 2].client, (two[number // 2 % 2].client, two[1 - number // 2 % 2].client)
        schema = {"required": [f"part_{number}"]}
        declared = await declaring.put("/events/types/lesson.finish", json={"schema": schema}, headers=admin)
        assert declared.json()["version"] == number + 1
        for client in asked:
            before = await client.post("/events", json=_part(number - 1), headers=admin)
            assert field_errors(before) == {(f"/event_properties/part_{number}", "required")}
            assert (await client.post("/events", json=_part(number), headers=admin)).status_code == 202
            shown = await client.get("/events/types/lesson.finish", headers=admin)
            assert shown.json() == declared.json()


def _part(number: int) -> dict[str, Any]:
    return event(event_type="lesson.finish", event_properties={f"part_{number}": 1})


async def test_a_repeated_request_happens_once_over_two_processes(
    two: tuple[Served, Served], database: Database
) -> None:
    headers = bearer(await new_key(database, Role.ADMIN)) | {"Idempotency-Key": "k"}
    answers = await asyncio.gather(
        *(two[number % 2].client.post("/users", json=user(), headers=headers) for number in range(8))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /users/\xff\xfe HTTP/1.1",
        b"GET /users/%00 HTTP/1.1",
        b"GET /users/%ff HTTP/1.1",
        b"GET /users?limit=%00&\xff=1 HTTP/1.1",
        b"GET /users/../keys HTTP/1.1",
        b"GET http://elsewhere/users HTTP/1.1",
        b"GET * HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"G\xffT / HTTP/1.1",
        b"GET /" + b"x" * 60_000 + b" HTTP/1.1",
        b"nonsense",
    ],
)
async def test_no_request_line_causes_a_5xx(
    two: tuple[Served, Served], database: Database, request_line: bytes
) -> None:
    key = await new_key(database, Role.ADMIN)
    address = httpx.URL(two[0].client.base_url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    head = b"\r\nHost: x\r\nConnection: close\r\nX-API-Key: " + key.encode() + b"\r\n\r\n"
    writer.write(request_line + head)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 4")), answer[:200]
    assert (await two[0].client.get("/health/live")).status_code == 200


async def test_a_caller_who_hangs_up_is_logged_as_499(two: tuple[Served, Served], database: Database) -> None:
    key = await new_key(database, Role.ADMIN)
    address = httpx.URL(two[0].client.base_url)
    _, writer = await asyncio.open_connection(address.host, address.port)
    head = b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    writer.write(head + b"X-API-Key: " + key.encode() + b"\r\n\r\n{")
    await writer.drain()
    writer.close()
    async with asyncio.timeout(30):
        while '"status":499' not in two[0].process.log().replace(" ", ""):
            await asyncio.sleep(0.05)
    assert "unexpected failure" not in two[0].process.log()


async def test_a_process_stops_although_a_client_keeps_its_connection(
    api_settings: Settings, tmp_path: Path
) -> None:
    settings = api_settings.model_copy(update={"api_port": free_port()})
    async with PerennialProcess("api", settings, tmp_path) as process:
        _, writer = await asyncio.open_connection("127.0.0.1", settings.api_port)
        writer.write(b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        async with asyncio.timeout(30):
            assert await process.stop() == 0
        writer.close()


def test_a_taken_address_is_reported_in_one_sentence(
    api_settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve(api_settings.model_copy(update={"api_port": port})) == 1
    assert capsys.readouterr().err == f"The address 127.0.0.1:{port} can't be listened on: is it taken?\n"


async def test_tls_is_1_3_and_nothing_older(api_settings: Settings, tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path / "tls")
    settings = api_settings.model_copy(
        update={"api_port": free_port(), "tls_certificate": files.certificate, "tls_key": files.key}
    )
    async with PerennialProcess("api", settings, tmp_path):
        context = ssl.create_default_context(cafile=str(files.authority))
        url = f"https://127.0.0.1:{settings.api_port}"
        async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False) as client:
            assert (await client.get("/health/live")).status_code == 200
            connection = await asyncio.open_connection("127.0.0.1", settings.api_port, ssl=context)
            assert connection[1].get_extra_info("ssl_object").version() == "TLSv1.3"
            connection[1].close()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection("127.0.0.1", settings.api_port, ssl=context)
