"""Requests to systems of others, at addresses that others have named.

The name is resolved here, each of its addresses is judged (:mod:`models.rules.outside`), and the very address that
was judged is connected to: a name that resolves to something else a moment later gains nothing. Redirects are not
followed and proxies of the environment not used. TLS is checked against the name.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from models.rules.outside import may_connect

_TIMEOUT = httpx.Timeout(20.0, connect=10.0)


class AddressForbiddenError(Exception):
    """The name resolves to addresses that nothing is sent to."""


class UnreachableError(Exception):
    """The name doesn't resolve, or there is nobody, or no answer in time. The text names the kind of failure."""


@dataclass(frozen=True)
class Answer:
    """What was answered, as far as it matters; the body is not read."""

    status: int
    retry_after: float | None
    """Seconds, where the answer names some."""

    @property
    def taken(self) -> bool:
        """Whether the other side has it."""
        return 200 <= self.status < 300


class Outbound:
    """Sends requests. ``loopback``: also to 127.0.0.1, where it is named so, as only the embedded stack does."""

    def __init__(self, *, loopback: bool) -> None:
        self._loopback = loopback
        self._tls = ssl.create_default_context()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST a body. Raises :class:`AddressForbiddenError` and :class:`UnreachableError`."""
        wanted = httpx.URL(url)
        address = await self._address(wanted)
        request_headers = {**headers, "host": wanted.netloc.decode("ascii")}
        # A client for each request: pooled connections are known by address, and would serve another name's TLS.
        async with httpx.AsyncClient(
            verify=self._tls, timeout=_TIMEOUT, trust_env=False, follow_redirects=False
        ) as client:
            try:
                async with client.stream(
                    "POST",
                    wanted.copy_with(host=address),
                    content=body,
                    headers=request_headers,
                    extensions={"sni_hostname": wanted.host},
                ) as response:
                    return Answer(response.status_code, _seconds(response.headers.get("retry-after")))
            except httpx.HTTPError as error:
                raise UnreachableError(type(error).__name__) from None

    async def _address(self, url: httpx.URL) -> str:
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise UnreachableError("NameNotResolved") from None
        addresses = [str(each[4][0]) for each in found]
        allowed = [each for each in addresses if may_connect(url.host, each, loopback=self._loopback)]
        if len(allowed) < len(addresses) or not allowed:
            raise AddressForbiddenError
        return allowed[0]


def _seconds(value: str | None) -> float | None:
    """Retry-After in its form of seconds; a date is as good as none."""
    return float(value) if value is not None and value.isascii() and value.isdecimal() and len(value) < 9 else None
