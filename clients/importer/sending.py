"""Sends items in batches: a few requests at once, never two that hold the same item."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from clients.importer.api_client import ApiClient, document_of
from clients.importer.items import Item, UnusableRows
from clients.importer.options import ImportStoppedError, ItemStatus, Kind, with_kept_decisions
from clients.importer.values import Problem

MAX_BYTES = 2 * 1024 * 1024  # a quarter of the API's default limit

Batch = tuple[Item, ...]


def batches(
    items: Iterable[Item | UnusableRows],
    size: int,
    reject: Callable[[UnusableRows], None],
    max_bytes: int = MAX_BYTES,
) -> Iterator[Batch]:
    """Group items in order: at most ``size`` of them, and at most ``max_bytes`` of JSON unless one alone is
    larger.

    ``reject`` is called with rows that can't be sent.
    """
    batch: list[Item] = []
    weight = 0
    for item in items:
        if isinstance(item, UnusableRows):
            reject(item)
            continue
        if batch and (len(batch) >= size or weight + len(item.body) > max_bytes):
            yield tuple(batch)
            batch, weight = [], 0
        batch.append(item)
        weight += len(item.body) + 1
    if batch:
        yield tuple(batch)


def request_body(member: str, batch: Batch, *, historical: bool = False) -> bytes:
    """For example `{"users": [...], "historical": true}`."""
    mark = b',"historical":true' if historical else b""
    return b'{"%s":[%s]%s}' % (member.encode(), b",".join(item.body for item in batch), mark)


_OK = (httpx.codes.OK, httpx.codes.ACCEPTED)


@dataclass(frozen=True, slots=True)
class ItemResult:
    """The API's result for an item; ``problems`` only if it was rejected."""

    item: Item
    status: ItemStatus
    problems: Sequence[Problem] = ()


class BatchSender:
    """Sends batches to one route. The route is idempotent: the same item twice changes nothing."""

    def __init__(
        self, api: ApiClient, kind: Kind, *, historical: bool = False, keep_recorded: Iterable[str] = ()
    ) -> None:
        """``keep_recorded``: purposes whose recorded decisions a grant doesn't change."""
        self._api = api
        self._kind = kind
        self._path = with_kept_decisions(kind.path, keep_recorded)
        self._historical = historical

    async def send(self, batch: Batch) -> list[ItemResult]:
        """Send a batch and return a result for each item, in no particular order.

        Raises :class:`ImportStoppedError` if the API stays unavailable or rejects the request as a whole.
        """
        body = request_body(self._kind.member, batch, historical=self._historical)
        headers = {"Idempotency-Key": str(uuid.uuid4())} if self._kind.idempotency_key else {}
        response = await self._api.request("POST", self._path, body, headers)
        if response.status_code in _OK:
            return self._results(batch, document_of(response))
        if response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            return await self._send_halves(batch)
        if response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            problem = document_of(response)
            if _has_results(problem, batch):
                return self._results(batch, problem)
            found = self._rejected_items(batch, problem)
            if found:
                rest = tuple(item for index, item in enumerate(batch) if index not in found)
                rejected = [ItemResult(batch[index], ItemStatus.REJECTED, each) for index, each in found.items()]
                return rejected + (await self.send(rest) if rest else [])
        raise self._api.stopped(response, self._kind.name)

    async def _send_halves(self, batch: Batch) -> list[ItemResult]:
        if len(batch) == 1:
            problem = Problem("", "body_too_large", "This item is larger than the API's limit for a request.")
            return [ItemResult(batch[0], ItemStatus.REJECTED, [problem])]
        middle = len(batch) // 2
        return await self.send(batch[:middle]) + await self.send(batch[middle:])

    def _results(self, batch: Batch, document: Mapping[str, Any]) -> list[ItemResult]:
        if not _has_results(document, batch):
            raise ImportStoppedError(
                f"{self._api.address} answers, but not as Perennial's API does; is the address right?"
            )
        return [self._result(batch, result) for result in document["results"]]

    def _result(self, batch: Batch, result: Mapping[str, Any]) -> ItemResult:
        index = result["index"]
        item = batch[index]
        if result["status"] == ItemStatus.REJECTED:
            errors = result.get("errors") or []
            return ItemResult(item, ItemStatus.REJECTED, [self._problem(index, error) for error in errors])
        if result.get("changed") is False:
            return ItemResult(item, ItemStatus.UNCHANGED)
        return ItemResult(item, ItemStatus(result["status"]))

    def _problem(self, index: int, error: Mapping[str, str]) -> Problem:
        # the API's pointer starts at the request's body
        pointer = error.get("pointer", "").removeprefix(f"/{self._kind.member}/{index}")
        return Problem(pointer, error.get("code", "rejected"), error.get("message", ""))

    def _rejected_items(self, batch: Batch, document: Mapping[str, Any]) -> dict[int, list[Problem]]:
        """Problems by index, if each error of a rejected request belongs to an item; else empty."""
        rejected: dict[int, list[Problem]] = {}
        errors: list[dict[str, str]] = document.get("errors") or []
        for error in errors:
            _, member, index = (*error.get("pointer", "").split("/"), "", "", "")[:3]
            if member != self._kind.member or not index.isdecimal() or int(index) >= len(batch):
                return {}
            rejected.setdefault(int(index), []).append(self._problem(int(index), error))
        return rejected


def _has_results(document: Mapping[str, Any], batch: Batch) -> bool:
    results = document.get("results")
    if not isinstance(results, list) or len(results) != len(batch):
        return False
    return {result.get("index") for result in results if isinstance(result, dict)} == set(range(len(batch)))


class InFlight:
    """Up to ``limit`` requests at a time.

    A request waits for earlier ones with the same identity, so the API applies their items in the file's order.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: dict[asyncio.Task[None], frozenset[str]] = {}

    async def add(self, request: Coroutine[None, None, None], identities: Iterable[str]) -> None:
        """Start a request as soon as the limit allows. Raises the error of an earlier request."""
        mine = frozenset(identities)
        try:
            while len(self._tasks) >= self._limit or not self._free(mine):
                await self._wait_for_one()
        except BaseException:
            request.close()
            raise
        self._tasks[asyncio.create_task(request)] = mine
        await asyncio.sleep(0)  # sends the request before the caller reads the next batch

    async def drain(self) -> None:
        """Wait for all requests. Raises the error of the first that failed."""
        while self._tasks:
            await self._wait_for_one()

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _free(self, identities: frozenset[str]) -> bool:
        return all(identities.isdisjoint(others) for others in self._tasks.values())

    async def _wait_for_one(self) -> None:
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            del self._tasks[task]
        for task in done:
            task.result()
