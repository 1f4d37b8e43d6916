"""Requests to the API that are made until they are answered: retries, and the key's limit."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from clients.importer.options import ImportStoppedError

_AWAY = (502, 503, 504)
_LONGEST_WAIT = 120.0


@dataclass(frozen=True)
class Patience:
    """How long to go on when the API is away: ``attempts`` with doubling pauses, in seconds."""

    attempts: int = 10
    first_pause: float = 0.2
    longest_pause: float = 5.0

    def pause(self, attempt: int) -> float:
        """The pause after the failed ``attempt`` (from 1), spread so that requests don't march in step."""
        full = min(self.first_pause * 2.0 ** (attempt - 1), self.longest_pause)
        return full * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class Calls:
    """The API, as an import calls it."""

    def __init__(self, client: httpx.AsyncClient, patience: Patience, note: Callable[[str], None]) -> None:
        self._client = client
        self._patience = patience
        self._note = note
        self._open_at = 0.0

    @property
    def address(self) -> str:
        """Where the API is."""
        return str(self._client.base_url)

    async def answered(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """The first answer that isn't "try again"; ``body`` is JSON.

        The request must be one that may be carried out twice. Raises :class:`ImportStoppedError` when the API
        stays away.
        """
        sent = dict(headers or {}) | ({} if body is None else {"Content-Type": "application/json"})
        failures = 0
        while True:
            await self._wait_until_open()
            try:
                response = await self._client.request(method, path, content=body, headers=sent)
            except httpx.TransportError as error:
                reason, asked = type(error).__name__, 0.0
            else:
                asked = _retry_after(response)
                if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                    self._hold(asked or 1.0)
                    continue
                if response.status_code not in _AWAY:
                    return response
                reason = f"status {response.status_code}"
            failures += 1
            if failures >= self._patience.attempts:
                raise ImportStoppedError(
                    f"The API at {self.address} doesn't answer ({reason}, {failures} attempts)."
                )
            if failures == 1:
                self._note(f"The API doesn't answer ({reason}); trying again.")
            await asyncio.sleep(max(self._patience.pause(failures), asked))

    def refusal(self, response: httpx.Response, kind: str) -> ImportStoppedError:
        """What stops the import, when a request as such is refused. ``kind`` is what was to be imported."""
        if response.status_code == httpx.codes.UNAUTHORIZED:
            return ImportStoppedError(
                f"The API at {self.address} doesn't know this key; give a valid one with --key."
            )
        if response.status_code == httpx.codes.FORBIDDEN:
            return ImportStoppedError(f"This key may not import {kind}; it takes one of role admin or integrator.")
        problem = document_of(response)
        said = problem.get("detail") or problem.get("title") or "no reason given"
        request = response.headers.get("X-Request-Id", "unknown")
        return ImportStoppedError(
            f"The API refuses the request with {response.status_code}: {said} (request {request})."
        )

    async def _wait_until_open(self) -> None:
        while (wait := self._open_at - time.monotonic()) > 0:  # noqa: ASYNC110 - others may move it on
            await asyncio.sleep(wait)

    def _hold(self, seconds: float) -> None:
        """Hold every request back: the limit is the key's, whoever met it."""
        until = time.monotonic() + seconds
        if until > self._open_at + 0.5:
            self._note(f"The key's requests for this minute are spent; going on in {seconds:.0f} s.")
        self._open_at = max(self._open_at, until)


def document_of(response: httpx.Response) -> dict[str, Any]:
    """The answer's JSON object, empty where it has none."""
    try:
        value = response.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _retry_after(response: httpx.Response) -> float:
    """What the API asks to wait, in seconds, within reason; 0 where it doesn't say."""
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), _LONGEST_WAIT) if asked.isdecimal() else 0.0
