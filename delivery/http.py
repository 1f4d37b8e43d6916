"""HTTP requests to URLs from API clients, guarded against private addresses.

The guard resolves the name, checks each address (:mod:`models.rules.outbound_urls`), and connects to a checked
address. So a later change of the name's addresses has no effect. The client follows no redirects, ignores proxy
variables of the environment, and verifies TLS against the name.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx

from models.rules.outbound_urls import may_connect, target
from models.rules.retry_after import retry_after

LONGEST_WAIT = timedelta(hours=12)
_TIMEOUT = httpx.Timeout(20.0, connect=10.0)


class AddressForbiddenError(Exception):
    """The name resolves to a forbidden address."""


class UnreachableError(Exception):
    """No address for the name, no connection, or no answer in time; the text names the failure."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. Its body is not read."""

    status: int
    retry_after: timedelta | None
    """The wait that the header `Retry-After` asks for, at most :data:`LONGEST_WAIT`; None without one."""

    @property
    def taken(self) -> bool:
        return 200 <= self.status < 300


class Outbound:
    """``loopback`` also permits URLs that name 127.0.0.1; only the embedded stack sets it."""

    def __init__(self, *, loopback: bool) -> None:
        self._loopback = loopback
        self._tls = ssl.create_default_context()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Raises :class:`AddressForbiddenError` or :class:`UnreachableError`."""
        try:
            wanted = target(url)
        except ValueError:  # accepted by another version of the API
            raise UnreachableError("InvalidURL") from None
        host = wanted.raw_host.decode("ascii")
        address = await self._address(host, wanted.port or (443 if wanted.scheme == "https" else 80))
        request_headers = {**headers, "host": wanted.netloc.decode("ascii")}
        # One client per request: a pool selects connections by address, and would reuse one for another name.
        async with httpx.AsyncClient(
            verify=self._tls, timeout=_TIMEOUT, trust_env=False, follow_redirects=False
        ) as client:
            try:
                async with client.stream(
                    "POST",
                    wanted.copy_with(host=address),
                    content=body,
                    headers=request_headers,
                    extensions={"sni_hostname": host},
                ) as response:
                    asked = response.headers.get("retry-after")
                    return Answer(response.status_code, retry_after(asked, datetime.now(UTC), LONGEST_WAIT))
            except httpx.HTTPError as error:
                raise UnreachableError(type(error).__name__) from None

    async def _address(self, host: str, port: int) -> str:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise UnreachableError("NameNotResolved") from None
        addresses = [str(each[4][0]) for each in found]
        allowed = [each for each in addresses if may_connect(host, each, loopback=self._loopback)]
        if len(allowed) < len(addresses) or not allowed:  # one forbidden address forbids the name
            raise AddressForbiddenError
        return allowed[0]
