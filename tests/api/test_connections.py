"""A connection takes bounded memory and time before its request is authenticated: raw sockets, one API process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import psutil
import pytest

from models.vocabulary import Role
from runtime.database import Database
from runtime.embedded.ports import free_port
from runtime.settings import Settings
from tests.support.builders import user
from tests.support.http import new_key
from tests.support.processes import PerennialProcess

MOST = 40
GET = b"GET /health/live HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /users HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@dataclass(frozen=True)
class Served:
    process: PerennialProcess
    port: int

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)

    @property
    def memory(self) -> int:
        size: int = psutil.Process(self.process.pid).memory_info().rss
        return size


@pytest.fixture(scope="module")
async def served(api_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    changes = {
        "api_port": free_port(),
        "api_max_connections": MOST,
        "api_header_seconds": 1.5,
        "api_body_seconds": 1.5,
    }
    settings = api_settings.model_copy(update=changes)
    async with PerennialProcess("api", settings, tmp_path_factory.mktemp("api")) as process:
        yield Served(process, settings.api_port)


async def answer_to(served: Served, *parts: bytes, pause: float = 0.0) -> bytes:
    """All that the server sends until it closes the connection; the parts are sent until then."""
    reader, writer = await served.connect()
    received: list[bytes] = []

    async def read() -> None:
        with suppress(OSError):
            while part := await reader.read(65_536):
                received.append(part)

    reading = asyncio.create_task(read())
    with suppress(OSError):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
    async with asyncio.timeout(20):
        await reading
    writer.close()
    return b"".join(received)


def assert_refused(answer: bytes, status: int, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    assert b"\r\nconnection: close" in head
    for header in (b"x-request-id: ", b"ratelimit-policy: ", b"content-type: application/problem+json"):
        assert header in head
    assert json.loads(body)["code"] == code


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (GET + b"".join(b"X-%d: a\r\n" % number for number in range(100)), 431, "headers_too_large"),
        (GET + b"X: " + b"a" * 70_000 + b"\r\n", 431, "headers_too_large"),
        (GET + b"X" * 70_000 + b": a\r\n", 431, "headers_too_large"),
        (b"GET /users?" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n", 414, "address_too_long"),
        (b"NONSENSE\r\n", 400, "bad_request"),
    ],
)
async def test_a_head_that_is_too_large_is_refused(served: Served, head: bytes, status: int, code: str) -> None:
    assert_refused(await answer_to(served, head + b"\r\n"), status, code)


async def test_permitted_heads_are_answered(served: Served) -> None:
    for head in (
        b"".join(b"X-%d: a\r\n" % number for number in range(98)),
        b"".join(b"X-%d: %b\r\n" % (number, b"a" * 1000) for number in range(58)),
    ):
        answer = await answer_to(served, GET + head + b"Connection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "unit",
    [
        b"X-Header: a\r\n" * 5000,
        b"X: " + b"a" * 65_536,
        b"b" * 65_536,
    ],
)
async def test_endless_headers_take_no_memory(served: Served, unit: bytes) -> None:
    before, begin = served.memory, time.monotonic()
    _, writer = await served.connect()
    writer.write(GET + b"X: a")
    sent = 0
    with suppress(OSError):
        while sent < 64 << 20:
            writer.write(unit)
            await writer.drain()
            sent += len(unit)
    writer.close()
    assert sent < 32 << 20, "the connection was closed"
    assert served.memory - before < 32 << 20
    assert time.monotonic() - begin < 10


async def test_endless_trailers_and_chunk_extensions_take_no_memory(served: Served) -> None:
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    for more in (b"1\r\na\r\n0\r\nX: ", b"1;"):
        before = served.memory
        await answer_to(served, chunked + more, *[b"a" * 65_536] * 400)
        assert served.memory - before < 16 << 20


async def test_many_pipelined_requests_are_refused(served: Served) -> None:
    answer = await answer_to(served, (b"GET /users HTTP/1.1\r\nHost: a\r\n\r\n") * 5000)
    assert answer.count(b"HTTP/1.1 ") < 40


@pytest.mark.slow
@pytest.mark.parametrize("head", [b"", b"G", GET, b"\r\n"])
async def test_a_head_that_does_not_end_is_refused_in_time(served: Served, head: bytes) -> None:
    begin = time.monotonic()
    assert_refused(await answer_to(served, head), 408, "request_timeout")
    assert 1 < time.monotonic() - begin < 8


@pytest.mark.slow
async def test_a_head_that_comes_in_drops_is_refused_in_time(served: Served) -> None:
    begin = time.monotonic()
    await answer_to(served, GET, *[b"X: a\r\n"] * 15, pause=0.2)
    assert time.monotonic() - begin < 12
    answer = await answer_to(served, GET + b"\r\n", *[b"\r\n"] * 15, pause=0.3)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer


@pytest.mark.slow
async def test_a_body_that_comes_in_drops_is_refused_in_time(served: Served, database: Database) -> None:
    key = (await new_key(database, Role.ADMIN)).encode()
    head = POST + b"Authorization: Bearer " + key + b"\r\nContent-Length: 1000000\r\n\r\n"
    begin = time.monotonic()
    answer = await answer_to(served, head, *[b" "] * 30, pause=0.2)
    assert_refused(answer, 408, "request_timeout")
    assert time.monotonic() - begin < 14


async def test_a_body_that_is_no_http_is_refused_with_an_answer(served: Served, database: Database) -> None:
    key = (await new_key(database, Role.ADMIN)).encode()
    head = POST + b"Authorization: Bearer " + key + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    for more, status, code in (
        (b"1\r\na\r\nnonsense\r\n", 400, "bad_request"),
        (b"1;" + b"a" * 100_000, 431, "headers_too_large"),
        (b"1\r\na\r\n0\r\nX: " + b"a" * 100_000, 431, "headers_too_large"),
    ):
        assert_refused(await answer_to(served, head, more), status, code)


@pytest.mark.slow
async def test_a_slow_body_at_a_modest_speed_is_taken(served: Served, database: Database) -> None:
    key = (await new_key(database, Role.ADMIN)).encode()
    body = json.dumps(user()).encode() + b" " * 100_000
    head = POST + b"Authorization: Bearer " + key + b"\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    parts = [body[at : at + 10_000] for at in range(0, len(body), 10_000)]
    answer = await answer_to(served, head % len(body), *parts, pause=0.5)
    assert answer.startswith(b"HTTP/1.1 201 ")


@pytest.mark.slow
async def test_connections_are_counted_and_half_sent_requests_end(served: Served) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(MOST):
            _, writer = await served.connect()
            stack.callback(writer.close)
            writer.write(GET)
        await asyncio.sleep(0.2)
        refused = await answer_to(served)
        assert_refused(refused, 503, "too_many_connections")
        assert b"retry-after: 1" in refused
        await asyncio.sleep(2.5)
        answer = await answer_to(served, GET + b"Connection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.slow
async def test_a_connection_stays_open_between_requests(served: Served) -> None:
    reader, writer = await served.connect()
    for _ in range(3):
        writer.write(GET + b"\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        await reader.readexactly(len(b'{"status":"ok"}'))
        await asyncio.sleep(2)
    writer.close()
