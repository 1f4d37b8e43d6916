"""A real HTTP server that keeps requests and sends the given answers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType


@dataclass(frozen=True)
class Hook:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes
    method: str = "POST"


class HookServer:
    """Listens on a free port of 127.0.0.1; ``answers`` gives the status of each request, then 204.

    It may add headers, and after an empty line a body. An empty answer breaks the connection once the request has
    come.

    Example::

        async def test_the_service_is_asked_again(hooks: HookServer) -> None:
            hooks.fail("503 Service Unavailable", times=2)
            await hooks.after(lambda: len(hooks.received) == 3)
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.received: list[Hook] = []
        self.answers: list[str] = []
        self.port = 0
        self._tls = tls
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Its address.

        Example::

            settings = worker_settings.model_copy(update={"message_webhook_url": hooks.url})
        """
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def after(self, condition: Callable[[], bool], within: float = 60.0) -> None:
        """Wait until a condition holds.

        Example::

            await hooks.after(lambda: len(hooks.received) == 2)
        """
        async with asyncio.timeout(within):
            while not condition():
                await asyncio.sleep(0.02)

    def fail(self, answer: str = "503 Service Unavailable", *, times: int) -> None:
        """Answer the next requests with an error.

        Example::

            hooks.fail("429 Too Many Requests", times=2)
        """
        self.answers += [answer] * times

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").splitlines()
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            method, path, _ = head[0].split()
            self.received.append(Hook(path, headers, body, method))
            answer = self.answers.pop(0) if self.answers else "204 No Content"
            if not answer:
                return
            start, _, content = answer.partition("\r\n\r\n")
            length = len(content.encode())
            rest = f"content-length: {length}\r\nconnection: close\r\n\r\n{content}"
            writer.write(f"HTTP/1.1 {start}\r\n{rest}".encode())
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def __aenter__(self) -> HookServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
