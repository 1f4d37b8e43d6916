"""HTTP requests to URLs from API clients and from the operator's settings, guarded against private addresses.

Only the hosts of the operator's own URLs may have private addresses. For other URLs the guard resolves the name,
checks each address (:mod:`models.rules.outbound_urls`), and connects to a checked address. So a later change of
the name's addresses has no effect. The client follows no redirects, ignores proxy variables of the environment,
and verifies TLS against the name.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx

from models.rules.outbound_urls import may_connect, target
from models.rules.retry_after import retry_after

LONGEST_WAIT = timedelta(hours=12)
_TIMEOUT = httpx.Timeout(20.0, connect=10.0)
_LONGEST_SECONDS = 45
"""For a request with its whole answer; below the time-out of an attempt at a step."""


_TEMPORARY_REFUSALS = frozenset({408, 425, 429})
"""Request Timeout, Too Early, Too Many Requests."""


def is_refusal(status: int) -> bool:
    """Whether the same request would be refused again: 4xx, apart from three."""
    return 400 <= status < 500 and status not in _TEMPORARY_REFUSALS


class AddressForbiddenError(Exception):
    """The name resolves to a forbidden address."""


class UnreachableError(Exception):
    """No address for the name, no connection, or no answer in time; the text names the failure."""


class AnswerUnusableError(Exception):
    """The body is longer than the caller allows, or compressed although the request doesn't permit it."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. Its body is not read."""

    status: int
    retry_after: timedelta | None
    """The wait that the header `Retry-After` asks for, at most :data:`LONGEST_WAIT`; None without one."""

    @property
    def taken(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True)
class FullAnswer(Answer):
    """An HTTP answer with its body."""

    content_type: str
    """Without parameters, in lower case; empty if the answer names none."""
    body: bytes


class Outbound:
    """``loopback`` also permits URLs that name 127.0.0.1; only the embedded stack sets it.

    ``own`` are URLs that the operator has configured: their hosts and ports may have private addresses. Raises
    ValueError if one of them can't be requested.
    """

    def __init__(self, *, loopback: bool, own: Collection[str] = ()) -> None:
        self._loopback = loopback
        self._own = frozenset(_host_and_port(target(url)) for url in own)
        self._tls = ssl.create_default_context()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Raises :class:`AddressForbiddenError` or :class:`UnreachableError`."""
        async with self._response("POST", url, body, headers) as response:
            return Answer(response.status_code, _retry_after(response))

    async def request(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        longest: int,
        accept: Collection[int] = (),
    ) -> FullAnswer:
        """Also read the body, of at most ``longest`` bytes, if the status is 2xx or one of ``accept``.

        Raises :class:`AnswerUnusableError` besides.
        """
        plain = {**headers, "accept-encoding": "identity"}  # a small compressed body may be a very long one
        async with self._response(method, url, body, plain) as response:
            status, pause = response.status_code, _retry_after(response)
            if not (200 <= status < 300 or status in accept):
                return FullAnswer(status, pause, "", b"")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise AnswerUnusableError("the answer is compressed")
            read = bytearray()
            async for chunk in response.aiter_raw():
                read += chunk
                if len(read) > longest:
                    raise AnswerUnusableError(f"the answer has more than {longest} bytes")
            content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            return FullAnswer(status, pause, content_type, bytes(read))

    @asynccontextmanager
    async def _response(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        try:
            wanted = target(url)
        except ValueError:  # accepted by another version of the API
            raise UnreachableError("InvalidURL") from None
        host, port = _host_and_port(wanted)
        request_headers = {**headers, "host": wanted.netloc.decode("ascii")}
        try:
            async with asyncio.timeout(_LONGEST_SECONDS):
                address = await self._address(host, port)
                # One client per request: a pool selects connections by address, and would reuse one for another
                # name.
                async with (
                    httpx.AsyncClient(
                        verify=self._tls, timeout=_TIMEOUT, trust_env=False, follow_redirects=False
                    ) as client,
                    client.stream(
                        method,
                        wanted.copy_with(host=address),
                        content=body,
                        headers=request_headers,
                        extensions={"sni_hostname": host},
                    ) as response,
                ):
                    yield response
        except httpx.HTTPError as error:
            raise UnreachableError(type(error).__name__) from None
        except TimeoutError:
            raise UnreachableError("Timeout") from None

    async def _address(self, host: str, port: int) -> str:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise UnreachableError("NameNotResolved") from None
        addresses = [str(each[4][0]) for each in found]
        if (host, port) in self._own:
            return addresses[0]
        allowed = [each for each in addresses if may_connect(host, each, loopback=self._loopback)]
        if len(allowed) < len(addresses) or not allowed:  # one forbidden address forbids the name
            raise AddressForbiddenError
        return allowed[0]


def _host_and_port(url: httpx.URL) -> tuple[str, int]:
    return url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)


def _retry_after(response: httpx.Response) -> timedelta | None:
    return retry_after(response.headers.get("retry-after"), datetime.now(UTC), LONGEST_WAIT)
