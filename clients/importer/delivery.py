"""Sending batches, and what became of each item."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from clients.importer.batches import Batch, request_body
from clients.importer.calls import Calls, document_of
from clients.importer.items import Item
from clients.importer.kinds import Kind, Taken
from clients.importer.options import ImportStoppedError
from clients.importer.values import Problem

_TAKEN = (httpx.codes.OK, httpx.codes.ACCEPTED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """An item and what became of it; ``problems`` only for a rejected one."""

    item: Item
    taken: Taken
    problems: Sequence[Problem] = ()


class Delivery:
    """The API's batch route, as an import sees it. Sending the same item twice changes nothing there."""

    def __init__(self, calls: Calls, kind: Kind, *, historical: bool = False) -> None:
        self._calls = calls
        self._kind = kind
        self._historical = historical

    async def send(self, batch: Batch) -> list[Outcome]:
        """Send a batch until it is taken; gives an outcome for each item, in no particular order.

        Raises :class:`ImportStoppedError` when the API stays away or refuses the requests as such.
        """
        body = request_body(self._kind.member, batch, historical=self._historical)
        headers = {"Idempotency-Key": str(uuid.uuid4())} if self._kind.idempotency_key else {}
        response = await self._calls.answered("POST", self._kind.path, body, headers)
        if response.status_code in _TAKEN:
            return self._outcomes(batch, document_of(response))
        if response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            return await self._send_halves(batch)
        if response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            problem = document_of(response)
            if _has_results(problem, batch):
                return self._outcomes(batch, problem)
            refused = self._refused_items(batch, problem)
            if refused:
                rest = tuple(item for index, item in enumerate(batch) if index not in refused)
                rejected = [Outcome(batch[index], Taken.REJECTED, problems) for index, problems in refused.items()]
                return rejected + (await self.send(rest) if rest else [])
        raise self._calls.refusal(response, self._kind.name)

    async def _send_halves(self, batch: Batch) -> list[Outcome]:
        if len(batch) == 1:
            problem = Problem("", "body_too_large", "The API takes no request as large as this item.")
            return [Outcome(batch[0], Taken.REJECTED, [problem])]
        middle = len(batch) // 2
        return await self.send(batch[:middle]) + await self.send(batch[middle:])

    def _outcomes(self, batch: Batch, document: Mapping[str, Any]) -> list[Outcome]:
        if not _has_results(document, batch):
            raise ImportStoppedError(
                f"{self._calls.address} answers, but not as Perennial's API does; is the address right?"
            )
        return [self._outcome(batch, result) for result in document["results"]]

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

    def _refused_items(self, batch: Batch, document: Mapping[str, Any]) -> dict[int, list[Problem]]:
        """By index, where every error of a refused request is an item's; else nothing."""
        refused: dict[int, list[Problem]] = {}
        errors: list[dict[str, str]] = document.get("errors") or []
        for error in errors:
            _, member, index = (*error.get("pointer", "").split("/"), "", "", "")[:3]
            if member != self._kind.member or not index.isdecimal() or int(index) >= len(batch):
                return {}
            refused.setdefault(int(index), []).append(self._problem(int(index), error))
        return refused


def _has_results(document: Mapping[str, Any], batch: Batch) -> bool:
    results = document.get("results")
    return isinstance(results, list) and len(results) == len(batch)
