"""Grants the consents in `[consents]` of a mapping for the people of a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import orjson

from clients.importer.api_client import ApiClient, document_of
from models.vocabulary import Purpose

_OPTIONS = ("source", "policy_version", "legal_basis")
_REQUESTS_AT_ONCE = 3
_NO_USER = (httpx.codes.NOT_FOUND, httpx.codes.GONE)
"""The user is unknown or erased. The API rejects each of their items for this reason, so the import reports it
there."""
_NOT_AN_ID = httpx.codes.UNPROCESSABLE_ENTITY


class InvalidConsentError(ValueError):
    """An invalid entry of `[consents]`. The text continues the sentence "'data_collection' ..."."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A consent that every person of the file has given."""

    purpose: str
    body: bytes
    """JSON for `PUT /users/{id}/consents/{purpose}`."""


def parse_grant(purpose: str, value: object) -> Grant:
    """Read an entry of `[consents]`. Raises :class:`InvalidConsentError`."""
    if purpose not in list(Purpose):
        raise InvalidConsentError(f"is no purpose of a consent; there are {', '.join(Purpose)}")
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise InvalidConsentError(
            'must be a table of texts, such as { source = "signup form", policy_version = "2" }'
        )
    for option in value:
        if option not in _OPTIONS:
            raise InvalidConsentError(f"has the unknown option '{option}'; there are {', '.join(_OPTIONS)}")
    if not value.get("source"):
        raise InvalidConsentError("needs a 'source', which says where the consent was given")
    return Grant(purpose, orjson.dumps({"granted": True, **value}))


class ConsentGranter:
    """Grants consents once for each person of the file.

    It leaves recorded decisions unchanged: it neither repeats a consent nor reverses a withdrawal. A key that may
    not read consents (role integrator) grants without this check.
    """

    def __init__(self, api: ApiClient, grants: Sequence[Grant], kind: str, on_done: Callable[[int], None]) -> None:
        """``on_done`` is called with a number of people whose consents are complete; ``kind`` names the data."""
        self._api = api
        self._grants = grants
        self._kind = kind
        self._on_done = on_done
        self._people: dict[str, asyncio.Future[None]] = {}
        self._can_read = True
        self.granted = 0

    async def ensure(self, people: Iterable[str]) -> None:
        """Return after the consents of all ``people`` are recorded. Raises :class:`ImportStoppedError`."""
        if not self._grants:
            return
        everyone = list(dict.fromkeys(people))
        mine = [user_id for user_id in everyone if user_id not in self._people]
        loop = asyncio.get_running_loop()
        self._people.update((user_id, loop.create_future()) for user_id in mine)
        pending = iter(mine)
        workers = [asyncio.create_task(self._work(pending)) for _ in range(min(_REQUESTS_AT_ONCE, len(mine)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        # some people may belong to another batch, which is still granting
        await asyncio.gather(*(asyncio.shield(self._people[user_id]) for user_id in everyone))

    async def _work(self, pending: Iterable[str]) -> None:
        for user_id in pending:
            await self._ensure_one(user_id)
            self._people[user_id].set_result(None)
            self._on_done(1)

    async def _ensure_one(self, user_id: str) -> None:
        path = f"/users/{quote(user_id, safe='')}/consents"
        recorded = await self._recorded_purposes(path) if self._can_read else frozenset[str]()
        if recorded is None:
            return
        for grant in self._grants:
            if grant.purpose in recorded:
                continue
            response = await self._api.request("PUT", f"{path}/{grant.purpose}", grant.body)
            if response.status_code in _NO_USER or _is_about_the_id(response):
                return
            if not response.is_success:
                raise self._api.stopped(response, f"{self._kind} with their consents")
            self.granted += 1

    async def _recorded_purposes(self, path: str) -> frozenset[str] | None:
        """The purposes with a recorded decision; None if there is no such user."""
        response = await self._api.request("GET", path)
        if response.status_code == httpx.codes.FORBIDDEN:
            self._can_read = False
            return frozenset()
        if response.status_code in _NO_USER or response.status_code == _NOT_AN_ID:
            return None
        if not response.is_success:
            raise self._api.stopped(response, f"{self._kind} with their consents")
        details: Sequence[Mapping[str, Any]] = document_of(response).get("details") or ()
        return frozenset(detail["purpose"] for detail in details if detail.get("changed_at") is not None)


def _is_about_the_id(response: httpx.Response) -> bool:
    if response.status_code != _NOT_AN_ID:
        return False
    errors = document_of(response).get("errors") or []
    return bool(errors) and all("user_id" in error.get("pointer", "") for error in errors)
