"""Grants the consents in `[consents]` of a mapping for the people of a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from clients.importer.api_client import ApiClient, document_of
from clients.importer.options import IfRecorded, ImportStoppedError, with_kept_decisions
from models.vocabulary import Purpose

_OPTIONS = ("source", "policy_version", "legal_basis", "if_recorded")
_PATH = "/consents/batch"
_MAX_BATCH = 1000


class InvalidConsentError(ValueError):
    """An invalid entry of `[consents]`. The text continues the sentence "'data_collection' ..."."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A consent that every person of the file has given."""

    purpose: str
    fields: Mapping[str, str]
    """Members of an item of `POST /consents/batch`."""
    if_recorded: IfRecorded


def parse_grant(purpose: str, value: object) -> Grant:
    """Read an entry of `[consents]`. Raises :class:`InvalidConsentError`."""
    if purpose not in list(Purpose):
        raise InvalidConsentError(f"is no purpose of a consent; there are {', '.join(Purpose)}")
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise InvalidConsentError(
            'must be a table of texts, such as { source = "signup_form", policy_version = "2" }'
        )
    for option in value:
        if option not in _OPTIONS:
            raise InvalidConsentError(f"has the unknown option '{option}'; there are {', '.join(_OPTIONS)}")
    if not value.get("source"):
        raise InvalidConsentError("needs a 'source', which says where the consent was given")
    fields = dict(value)
    try:
        if_recorded = IfRecorded(fields.pop("if_recorded", IfRecorded.KEEP))
    except ValueError:
        raise InvalidConsentError(f"has an unknown 'if_recorded'; there are {', '.join(IfRecorded)}") from None
    return Grant(purpose, fields, if_recorded)


class ConsentGranter:
    """Grants consents once for each person of the file.

    The API leaves recorded decisions unchanged, unless the grant says otherwise: it neither repeats a consent nor
    reverses a withdrawal.
    """

    def __init__(self, api: ApiClient, grants: Sequence[Grant], kind: str, on_done: Callable[[int], None]) -> None:
        """``on_done`` is called with a number of people whose consents are complete; ``kind`` names the data."""
        self._api = api
        self._grants = grants
        self._kind = kind
        self._on_done = on_done
        self._people: dict[str, asyncio.Future[None]] = {}
        kept = [grant.purpose for grant in grants if grant.if_recorded is IfRecorded.KEEP]
        self._path = with_kept_decisions(_PATH, kept)
        self.granted = 0

    async def ensure(self, people: Iterable[str]) -> None:
        """Return after the consents of all ``people`` are recorded. Raises :class:`ImportStoppedError`."""
        if not self._grants:
            return
        everyone = list(dict.fromkeys(people))
        mine = [user_id for user_id in everyone if user_id not in self._people]
        loop = asyncio.get_running_loop()
        self._people.update((user_id, loop.create_future()) for user_id in mine)
        step = _MAX_BATCH // len(self._grants)
        for start in range(0, len(mine), step):
            await self._grant(mine[start : start + step])
        # some people may belong to another batch, which is still granting
        await asyncio.gather(*(asyncio.shield(self._people[user_id]) for user_id in everyone))

    async def _grant(self, people: Sequence[str]) -> None:
        items = [
            {"user_id": user_id, "purpose": grant.purpose, "granted": True, **grant.fields}
            for user_id in people
            for grant in self._grants
        ]
        response = await self._api.request("POST", self._path, orjson.dumps({"consents": items}))
        results = document_of(response).get("results")
        if response.status_code != httpx.codes.OK or not isinstance(results, list):
            raise self._api.stopped(response, f"{self._kind} with their consents")
        for result in results:
            self._check(result)
        self.granted += sum(result.get("status") == "changed" for result in results)
        for user_id in people:
            self._people[user_id].set_result(None)
        self._on_done(len(people))

    def _check(self, result: Mapping[str, Any]) -> None:
        """Raise :class:`ImportStoppedError` if the API rejects what the mapping says of a consent."""
        for error in result.get("errors") or ():
            # The API rejects the items of an unknown or erased user as well, so the import reports it there.
            if error["pointer"].rpartition("/")[2] != "user_id":
                raise ImportStoppedError(
                    f"The API rejects the consent '{result.get('purpose')}' of the mapping's [consents]: "
                    f"'{error['pointer'].rpartition('/')[2]}' {error['message']}."
                )
