"""Sending batches: retries, the rate limit, and what became of each item."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx

from importer.batches import Batch, request_body
from importer.items import Item
from importer.kinds import Kind
from importer.options import ImportStopped
from importer.values import Problem

_AWAY = (502, 503, 504)
_LONGEST_WAIT = 120.0


class Taken(StrEnum):
    """What became of an item."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Outcome:
    """An item and what became of it; ``problems`` only for a rejected one."""

    item: Item
    taken: Taken
    problems: Sequence[Problem] = ()


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


class Delivery:
    """The API's batch route, as an import sees it. Sending the same item twice changes nothing there."""

    def __init__(
        self, client: httpx.AsyncClient, kind: Kind, patience: Patience, note: Callable[[str], None]
    ) -> None:
        self._client = client
        self._kind = kind
        self._patience = patience
        self._note = note
        self._open_at = 0.0

    async def send(self, batch: Batch) -> list[Outcome]:
        """Send a batch until it is taken; gives an outcome for each item, in no particular order.

        Raises :class:`ImportStopped` when the API stays away or refuses the requests as such.
        """
        response = await self._answered(batch)
        if response.status_code == httpx.codes.OK:
            return self._outcomes(batch, response)
        if response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            return await self._send_halves(batch)
        if response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            refused = self._refused_items(batch, response)
            if refused:
                rest = tuple(item for index, item in enumerate(batch) if index not in refused)
                rejected = [Outcome(batch[index], Taken.REJECTED, problems) for index, problems in refused.items()]
                return rejected + (await self.send(rest) if rest else [])
        raise ImportStopped(self._refusal(response))

    async def _answered(self, batch: Batch) -> httpx.Response:
        """The first answer that isn't "try again"."""
        body = request_body(self._kind.member, batch)
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        failures = 0
        while True:
            await self._wait_until_open()
            try:
                response = await self._client.post(self._kind.path, content=body, headers=headers)
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
                raise ImportStopped(
                    f"The API at {self._client.base_url} doesn't answer ({reason}, {failures} attempts)."
                )
            if failures == 1:
                self._note(f"The API doesn't answer ({reason}); trying again.")
            await asyncio.sleep(max(self._patience.pause(failures), asked))

    async def _wait_until_open(self) -> None:
        while (wait := self._open_at - time.monotonic()) > 0:  # noqa: ASYNC110 - others may move it on
            await asyncio.sleep(wait)

    def _hold(self, seconds: float) -> None:
        """Hold every request back: the limit is the key's, whoever met it."""
        until = time.monotonic() + seconds
        if until > self._open_at + 0.5:
            self._note(f"The key's requests for this minute are spent; going on in {seconds:.0f} s.")
        self._open_at = max(self._open_at, until)

    async def _send_halves(self, batch: Batch) -> list[Outcome]:
        if len(batch) == 1:
            problem = Problem("", "body_too_large", "The API takes no request as large as this item.")
            return [Outcome(batch[0], Taken.REJECTED, [problem])]
        middle = len(batch) // 2
        return await self.send(batch[:middle]) + await self.send(batch[middle:])

    def _outcomes(self, batch: Batch, response: httpx.Response) -> list[Outcome]:
        results = _json(response).get("results")
        if not isinstance(results, list) or len(results) != len(batch):
            raise ImportStopped(
                f"{self._client.base_url} answers, but not as Perennial's API does; is the address right?"
            )
        return [self._outcome(batch, result) for result in results]

    def _outcome(self, batch: Batch, result: Mapping[str, Any]) -> Outcome:
        index = result["index"]
        item = batch[index]
        if result["status"] == Taken.REJECTED:
            errors = result.get("errors") or []
            return Outcome(item, Taken.REJECTED, [self._problem(index, error) for error in errors])
        if result.get("changed") is False:
            return Outcome(item, Taken.UNCHANGED)
        return Outcome(item, Taken(result["status"]))

    def _problem(self, index: int, error: Mapping[str, str]) -> Problem:
        """An error of the API, whose pointer goes into the request, as one of the item."""
        pointer = error.get("pointer", "").removeprefix(f"/{self._kind.member}/{index}")
        return Problem(pointer, error.get("code", "rejected"), error.get("message", ""))

    def _refused_items(self, batch: Batch, response: httpx.Response) -> dict[int, list[Problem]]:
        """By index, where every error of a refused request is an item's; else nothing."""
        refused: dict[int, list[Problem]] = {}
        errors: list[dict[str, str]] = _json(response).get("errors") or []
        for error in errors:
            _, member, index = (*error.get("pointer", "").split("/"), "", "", "")[:3]
            if member != self._kind.member or not index.isdecimal() or int(index) >= len(batch):
                return {}
            refused.setdefault(int(index), []).append(self._problem(int(index), error))
        return refused

    def _refusal(self, response: httpx.Response) -> str:
        if response.status_code == httpx.codes.UNAUTHORIZED:
            return f"The API at {self._client.base_url} doesn't know this key; give a valid one with --key."
        problem = _json(response)
        if response.status_code == httpx.codes.FORBIDDEN:
            return f"This key may not import {self._kind.name}; it takes one of role admin or integrator."
        said = problem.get("detail") or problem.get("title") or "no reason given"
        request = response.headers.get("X-Request-Id", "unknown")
        return f"The API refuses the request with {response.status_code}: {said} (request {request})."


def _retry_after(response: httpx.Response) -> float:
    """What the API asks to wait, in seconds, within reason; 0 where it doesn't say."""
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), _LONGEST_WAIT) if asked.isdecimal() else 0.0


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        value = response.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
