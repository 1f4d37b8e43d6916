"""The address of Temporal's Web UI: a proxy in front of it that checks who asks.

The dev server's Web UI answers under any host name. With DNS rebinding a page of another site could use that name,
read the Web UI's answers, and terminate workflows. So the proxy answers only under the stack's own addresses, and
only pages from them (`Host`, `Origin`). The Web UI itself listens on a random loopback address and port. It sends
no token to the browser: the proxy adds the codec's token (ADR 0025).
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from runtime.embedded.parts import StackError
from runtime.embedded.ports import LOOPBACK

_CODEC = "/codec"
_DECODE = f"{_CODEC}/decode"
_TIMEOUT = httpx.Timeout(30.0, connect=2.0)
_GRACE_SECONDS = 1
_PER_CONNECTION = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
"""Headers of RFC 9110, section 7.6.1, which a proxy does not pass on."""


def hidden_address() -> str:
    """A loopback address for the Web UI that no page can guess. Only Linux listens on all of 127.0.0.0/8."""
    if sys.platform != "linux":
        return LOOPBACK
    return f"127.{64 + secrets.randbelow(128)}.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"


class WebUi:
    """The proxy, in this process. ``server`` gives the present address of the dev server's Web UI."""

    def __init__(
        self, port: int, server: Callable[[], str], decoder: str | None, authority: str | None = None
    ) -> None:
        """``decoder`` is the API's address for payloads, with its token; None: the Web UI decrypts nothing.

        ``authority`` is the file of the certificate authority that the API's certificate needs.
        """
        self._port = port
        self._server = server
        self._decoder = decoder
        self._hosts = {f"{name}:{port}" for name in (LOOPBACK, "localhost", "[::1]")}
        self._verify = ssl.create_default_context(cafile=authority) if authority else True

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def codec_endpoint(self) -> str | None:
        """The address that the Web UI's pages send payloads to; they add `/decode`."""
        return f"{self.url}{_CODEC}" if self._decoder else None

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve within the block. Raises :class:`StackError` if the port is taken."""
        listening = _listen(self._port)
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False, verify=self._verify) as self._client:
            server = _Server(
                uvicorn.Config(
                    self._answer,
                    interface="asgi3",
                    lifespan="off",
                    ws="none",
                    access_log=False,
                    log_config=None,
                    proxy_headers=False,
                    server_header=False,
                    date_header=False,
                    timeout_graceful_shutdown=_GRACE_SECONDS,
                )
            )
            task = asyncio.create_task(server.serve(sockets=[listening]))
            try:
                yield
            finally:
                server.should_exit = True
                await task

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        answer = self._refusal(request) or await self._forward(request)
        await answer(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return PlainTextResponse(f"This address is not served here; open {self.url}.", 421)
        origins = request.headers.getlist("origin")
        if any(origin.lower() not in {f"http://{host}" for host in self._hosts} for origin in origins):
            return PlainTextResponse("Pages of other sites may not use this address.", 403)
        if not request.scope["raw_path"].startswith(b"/"):
            return PlainTextResponse("The request names another server.", 400)
        if request.scope["path"].startswith(f"{_CODEC}/") and (
            self._decoder is None or request.scope["path"] != _DECODE
        ):
            return PlainTextResponse("There is nothing under this path.", 404)
        return None

    async def _forward(self, request: Request) -> Response:
        path = request.scope["raw_path"].decode("ascii", "replace")
        decoded = request.scope["path"] == _DECODE
        target = f"{self._decoder}/decode" if decoded else f"{self._server()}{path}"
        query = request.scope["query_string"].decode("ascii", "replace")
        outgoing = self._client.build_request(
            request.method,
            f"{target}?{query}" if query else target,
            headers=[(name, value) for name, value in request.headers.raw if _passes(name)],
            content=await request.body() or None,
        )
        try:
            incoming = await self._client.send(outgoing, stream=True)
        except httpx.HTTPError:
            return PlainTextResponse("Temporal's Web UI does not answer; try again in a moment.", 502)
        answer = StreamingResponse(_body_of(incoming), incoming.status_code)
        answer.raw_headers = [(name.lower(), value) for name, value in incoming.headers.raw if _passes(name)]
        return answer


def _passes(name: bytes) -> bool:
    return name.lower() != b"host" and name.lower().decode("latin-1") not in _PER_CONNECTION


async def _body_of(incoming: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in incoming.aiter_raw():
            yield part
    finally:
        await incoming.aclose()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the stack."""
        yield


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((LOOPBACK, port))
        listening.listen()
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise StackError(
            f"Port {port} is taken; choose another one with --ui-port (0 picks a free one)."
        ) from None
    return listening
