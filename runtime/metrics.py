"""`/metrics` for Prometheus, on an address of its own, without a key."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

logger = logging.getLogger("perennial.metrics")

_REQUEST_SECONDS = 5.0
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Gauge:
    """A metric and its values by label."""

    name: str
    help: str
    values: Iterable[tuple[Mapping[str, str], float]]


def rendered(gauges: Iterable[Gauge]) -> str:
    """The text format of Prometheus."""
    lines = []
    for gauge in gauges:
        lines += [f"# HELP {gauge.name} {gauge.help}", f"# TYPE {gauge.name} gauge"]
        for labels, value in gauge.values:
            shown = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            lines.append(f"{gauge.name}{{{shown}}} {value:g}" if shown else f"{gauge.name} {value:g}")
    return "\n".join([*lines, ""])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@asynccontextmanager
async def metrics_served(
    address: str | None, read: Callable[[], Awaitable[Iterable[Gauge]]]
) -> AsyncIterator[None]:
    """Serve the gauges of ``read`` at `host:port`; nothing for None. Raises OSError if it can't be listened on."""
    if address is None:
        yield
        return
    host, _, port = address.rpartition(":")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await _answer(head, read))
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, host.strip("[]"), int(port), limit=8192)
    logger.info("serving metrics", extra={"address": address})
    async with server:
        yield


async def _answer(head: bytes, read: Callable[[], Awaitable[Iterable[Gauge]]]) -> bytes:
    method, path, *_ = [*head.split(b"\r\n", 1)[0].split(b" "), b"", b""]
    if method not in (b"GET", b"HEAD"):
        return _response("405 Method Not Allowed", "", more="Allow: GET, HEAD\r\n")
    if path.partition(b"?")[0] != b"/metrics":
        return _response("404 Not Found", "")
    try:
        text = rendered(await read())
    except Exception:
        logger.exception("the metrics can't be read")
        return _response("503 Service Unavailable", "")
    return _response("200 OK", text, body=method == b"GET")


def _response(status: str, text: str, *, body: bool = True, more: str = "") -> bytes:
    content = text.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n"
    return f"{head}{more}\r\n".encode() + (content if body else b"")
