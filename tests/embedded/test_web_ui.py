"""The proxy in front of the Web UI answers only the stack's own pages, under the stack's own names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest

from runtime.embedded.home import Home
from runtime.embedded.parts import StackError
from runtime.embedded.ports import free_port
from runtime.embedded.temporal_server import EmbeddedTemporal
from runtime.embedded.web_ui import WebUi, hidden_address

TOKEN = "s3cr3t"


class Decoder:
    """Stands for the API: an HTTP server that records requests and answers each with 200."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            (int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length")), 0
        )
        body = (await reader.readexactly(length)).decode()
        self.requests.append(f"{head}{body}")
        writer.write(b"HTTP/1.1 200 OK\r\nVary: Origin\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
async def decoder() -> Decoder:
    return Decoder()


@pytest.fixture
async def ui(home: Home, decoder: Decoder) -> AsyncIterator[WebUi]:
    """The proxy before a real Temporal."""
    server = await asyncio.start_server(decoder.serve, "127.0.0.1")
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    temporal: EmbeddedTemporal
    proxy = WebUi(free_port(), lambda: temporal.ui_url, f"{address}/codec/{TOKEN}")
    temporal = EmbeddedTemporal(home, ui_address=hidden_address(), codec_endpoint=proxy.codec_endpoint)
    async with server, temporal, proxy.serving():
        async with asyncio.timeout(15):  # the Web UI may have tried to reach Temporal's port too early
            while (await ask(proxy, "/api/v1/namespaces")).status_code == 503:
                await asyncio.sleep(0.1)
        yield proxy


async def ask(ui: WebUi, path: str = "/", method: str = "GET", **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        return await client.request(method, f"{ui.url}{path}", headers=headers)


async def test_the_web_ui_answers_under_its_own_names_alone(ui: WebUi) -> None:
    port = urlsplit(ui.url).port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}"):
        page = await ask(ui, "/namespaces/default/workflows", host=host)
        assert page.status_code == 200
        assert "<html" in page.text.lower()
    for host in (
        "evil.example",
        f"evil.example:{port}",
        f"127.0.0.1.evil.example:{port}",
        "127.0.0.1",
        "",
        "[::1]",
    ):
        for path in ("/", "/api/v1/settings", "/api/v1/namespaces", "/codec/decode"):
            refused = await ask(ui, path, host=host)
            assert refused.status_code in (400, 421), host
            assert TOKEN not in refused.text


async def test_pages_of_other_sites_are_refused(ui: WebUi, decoder: Decoder) -> None:
    terminate = "/api/v1/namespaces/default/workflows/onboarding%2F1/terminate"
    for origin in ("http://evil.example", "null", ui.url.replace("http:", "https:"), f"{ui.url}.evil.example"):
        for method, path in (("POST", terminate), ("POST", "/codec/decode"), ("GET", "/api/v1/namespaces")):
            assert (await ask(ui, path, method, origin=origin)).status_code == 403
    assert decoder.requests == []
    for origin in (ui.url, ui.url.replace("127.0.0.1", "localhost")):
        assert (await ask(ui, "/api/v1/namespaces", origin=origin)).status_code == 200


async def test_the_proxy_adds_the_token_that_the_page_does_not_get(ui: WebUi, decoder: Decoder) -> None:
    settings = await ask(ui, "/api/v1/settings")
    assert settings.json()["Codec"]["Endpoint"] == f"{ui.url}/codec"
    assert TOKEN not in settings.text
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{ui.url}/codec/decode?a=b", json={"payloads": []}, headers={"origin": ui.url})
    assert (answer.status_code, answer.text, answer.headers["vary"]) == (200, "{}", "Origin")
    [request] = decoder.requests
    assert request.startswith(f"POST /codec/{TOKEN}/decode?a=b HTTP/1.1\r\n")
    assert f"origin: {ui.url}" in request.lower()
    assert request.endswith('{"payloads":[]}')
    for path in ("/codec", "/codec/", "/codec/other", "/codec/decode/more", "/codec/../codec/x"):
        await ask(ui, path)
    assert len(decoder.requests) == 1


async def test_a_taken_port_is_one_sentence(ui: WebUi) -> None:
    other = WebUi(urlsplit(ui.url).port or 0, lambda: "http://127.0.0.1:1", None)
    with pytest.raises(StackError, match="is taken; choose another one with --ui-port"):
        async with other.serving():
            pass


async def test_without_a_web_ui_the_answer_is_502_and_without_a_decoder_404() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    alone = WebUi(free_port(), lambda: nobody, None)
    assert alone.codec_endpoint is None
    async with alone.serving():
        assert (await ask(alone)).status_code == 502
        assert (await ask(alone, "/codec/decode", "POST")).status_code == 404


async def test_temporals_http_api_answers_under_its_own_name_alone(home: Home) -> None:
    async with EmbeddedTemporal(home) as temporal, httpx.AsyncClient(trust_env=False) as client:
        port = temporal._port("http-port")
        address = f"http://127.0.0.1:{port}/api/v1/namespaces"
        assert (await client.get(address)).status_code == 200
        assert (await client.get(address, headers={"host": f"evil.example:{port}"})).status_code == 403
