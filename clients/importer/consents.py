"""Consents with their source: `[consents]` of a mapping, granted for the people of a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import orjson

from clients.importer.calls import Calls, document_of
from models.vocabulary import Purpose

_OPTIONS = ("source", "policy_version", "legal_basis")
_REQUESTS_AT_ONCE = 3
_NOBODY = (httpx.codes.NOT_FOUND, httpx.codes.GONE)
"""An id that nobody has, or nobody any more: the API says so again for each of their items."""
_NOT_AN_ID = httpx.codes.UNPROCESSABLE_ENTITY


class InvalidConsentError(ValueError):
    """The mapping's entry isn't one; the text continues "'data_collection' ..."."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What every person of the file has agreed to, and where."""

    purpose: str
    body: bytes
    """JSON of `PUT /users/{id}/consents/{purpose}`."""


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


class Consents:
    """Grants consents, once for each person of the file.

    What a person has said before stands: a consent that is there isn't given again, and a withdrawn one isn't
    given back. A key that may not read consents (role integrator) grants without looking.
    """

    def __init__(self, calls: Calls, grants: Sequence[Grant], kind: str, settled: Callable[[int], None]) -> None:
        """``settled`` is told how many more people's consents are in order; ``kind`` is what is imported."""
        self._calls = calls
        self._grants = grants
        self._kind = kind
        self._settled = settled
        self._people: dict[str, asyncio.Future[None]] = {}
        self._may_look = True
        self.granted = 0

    async def ensure(self, people: Iterable[str]) -> None:
        """Return once the consents of all of them are in order. Raises :class:`ImportStoppedError`."""
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
        await asyncio.gather(*(asyncio.shield(self._people[user_id]) for user_id in everyone))

    async def _work(self, pending: Iterable[str]) -> None:
        for user_id in pending:
            await self._ensure_one(user_id)
            self._people[user_id].set_result(None)
            self._settled(1)

    async def _ensure_one(self, user_id: str) -> None:
        path = f"/users/{quote(user_id, safe='')}/consents"
        said = await self._said(path) if self._may_look else frozenset[str]()
        if said is None:
            return
        for grant in self._grants:
            if grant.purpose in said:
                continue
            response = await self._calls.answered("PUT", f"{path}/{grant.purpose}", grant.body)
            if response.status_code in _NOBODY or _is_about_the_id(response):
                return
            if not response.is_success:
                raise self._calls.refusal(response, f"{self._kind} with their consents")
            self.granted += 1

    async def _said(self, path: str) -> frozenset[str] | None:
        """The purposes that the person has said something about; None where there is no such person."""
        response = await self._calls.answered("GET", path)
        if response.status_code == httpx.codes.FORBIDDEN:
            self._may_look = False
            return frozenset()
        if response.status_code in _NOBODY or response.status_code == _NOT_AN_ID:
            return None
        if not response.is_success:
            raise self._calls.refusal(response, f"{self._kind} with their consents")
        details: Sequence[Mapping[str, Any]] = document_of(response).get("details") or ()
        return frozenset(detail["purpose"] for detail in details if detail.get("changed_at") is not None)


def _is_about_the_id(response: httpx.Response) -> bool:
    """Whether the person's id is refused, which the API says again for each of their items."""
    if response.status_code != _NOT_AN_ID:
        return False
    errors = document_of(response).get("errors") or []
    return bool(errors) and all("user_id" in error.get("pointer", "") for error in errors)
