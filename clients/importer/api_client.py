"""Requests to the API, with retries and waits for the key's rate limit."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from clients.importer.options import ImportStoppedError
from models.rules.retry_after import retry_after

_UNAVAILABLE = (502, 503, 504)
_MAX_WAIT = timedelta(minutes=2)
_TIMEOUT = httpx.Timeout(60, connect=5)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class RetryPolicy:
    """Attempts while the API is unavailable, with doubling pauses in seconds."""

    attempts: int = 10
    first_pause: float = 0.2
    longest_pause: float = 5.0

    def pause(self, attempt: int) -> float:
        """The pause after the failed ``attempt`` (from 1), with jitter so that requests don't retry together."""
        full = min(self.first_pause * 2.0 ** (attempt - 1), self.longest_pause)
        return full * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def http_client(url: str, key: str, ca_file: Path | None, *, agent: str) -> httpx.AsyncClient:
    """A client for an API, with a key. Raises :class:`ImportStoppedError` for an unusable address or key."""
    try:
        address = httpx.URL(url.rstrip("/"))
    except httpx.InvalidURL:
        address = httpx.URL()
    if address.scheme not in ("http", "https") or not address.host:
        raise ImportStoppedError("--url must be the API's address, such as http://127.0.0.1:8080.")
    if not key or not key.isascii() or not key.isprintable():
        raise ImportStoppedError("An API key is needed: give one with --key.")
    return httpx.AsyncClient(
        base_url=address,
        headers={"Authorization": f"Bearer {key}", "User-Agent": agent},
        timeout=_TIMEOUT,
        trust_env=address.host not in _LOOPBACK,
        verify=_trusted(ca_file),
    )


def _trusted(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        with suppress(FileNotFoundError):
            context.load_verify_locations(ca_file)
    return context


class ApiClient:
    def __init__(self, client: httpx.AsyncClient, retries: RetryPolicy, note: Callable[[str], None]) -> None:
        self._client = client
        self._retries = retries
        self._note = note
        self._open_at = 0.0

    @property
    def address(self) -> str:
        return str(self._client.base_url)

    async def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send a request, which must be idempotent, until the API answers it. ``body`` is JSON.

        Raises :class:`ImportStoppedError` if the API stays unavailable.
        """
        sent = dict(headers or {}) | ({} if body is None else {"Content-Type": "application/json"})
        failures = 0
        while True:
            await self._wait_until_open()
            try:
                response = await self._client.request(method, path, content=body, headers=sent)
            except httpx.TransportError as error:
                reason, wait = type(error).__name__, 0.0
            else:
                wait = _retry_after(response)
                if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                    self._hold(wait or 1.0)
                    continue
                if response.status_code not in _UNAVAILABLE:
                    return response
                reason = f"status {response.status_code}"
            failures += 1
            if failures >= self._retries.attempts:
                raise ImportStoppedError(
                    f"The API at {self.address} doesn't answer ({reason}, {failures} attempts)."
                )
            if failures == 1:
                self._note(f"The API doesn't answer ({reason}); trying again.")
            await asyncio.sleep(max(self._retries.pause(failures), wait))

    def stopped(self, response: httpx.Response, kind: str) -> ImportStoppedError:
        """The error for a rejected request. ``kind`` names the data of the import."""
        if response.status_code == httpx.codes.UNAUTHORIZED:
            return ImportStoppedError(
                f"The API at {self.address} doesn't know this key; give a valid one with --key."
            )
        if response.status_code == httpx.codes.FORBIDDEN:
            return ImportStoppedError(f"This key may not import {kind}; it takes one of role admin or integrator.")
        problem = document_of(response)
        reason = problem.get("detail") or problem.get("title") or "no reason given"
        request = response.headers.get("X-Request-Id", "unknown")
        return ImportStoppedError(
            f"The API refuses the request with {response.status_code}: {reason} (request {request})."
        )

    async def _wait_until_open(self) -> None:
        while (wait := self._open_at - time.monotonic()) > 0:  # noqa: ASYNC110 - another request may extend it
            await asyncio.sleep(wait)

    def _hold(self, seconds: float) -> None:
        # the limit belongs to the key, so every request waits
        until = time.monotonic() + seconds
        if until > self._open_at + 0.5:
            self._note(f"The key has reached its limit of requests a minute; continuing in {seconds:.0f} s.")
        self._open_at = max(self._open_at, until)


def document_of(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of a response; empty if it has none."""
    try:
        value = response.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _retry_after(response: httpx.Response) -> float:
    """Seconds; 0 without the header."""
    wait = retry_after(response.headers.get("Retry-After"), datetime.now(UTC), _MAX_WAIT)
    return wait.total_seconds() if wait else 0.0
