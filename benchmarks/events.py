"""Makes and sends events like those of a shop's web site."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from benchmarks.http import Connection, connections
from benchmarks.measure import Burst, burst, until
from benchmarks.stack import Stack

BATCH = 500
CONNECTIONS = 8
USERS = 20_000
_CAUGHT_UP_WITHIN = 300.0
_SESSIONS = 3
_HOUR_MS = 3_600_000

Event = dict[str, Any]
Properties = Callable[[random.Random], Mapping[str, Any]]

_KINDS: Sequence[tuple[str, int, Properties]] = (
    ("engagement.page_view", 8, lambda rng: {"page": f"/products/{rng.randrange(5000)}", "duration": 12}),
    ("engagement.feature_click", 3, lambda rng: {"feature": f"feature-{rng.randrange(40)}"}),
    ("engagement.search", 2, lambda rng: {"query": "running shoes", "results": rng.randrange(90)}),
    (
        "transaction.cart_add",
        1,
        lambda rng: {"product_id": f"p-{rng.randrange(5000)}", "price": "19.90", "currency": "USD"},
    ),
    (
        "transaction.purchase_complete",
        1,
        lambda rng: {"order_id": f"o-{rng.getrandbits(60)}", "amount": "59.90", "currency": "USD"},
    ),
)
"""Event type, its share of fifteen events, and its properties."""


@dataclass(frozen=True)
class Crowd:
    """Users with consent, and a generator of their events; a seed fixes all but ids and times."""

    user_ids: Sequence[str]
    rng: random.Random

    def events(self, count: int) -> list[Event]:
        # None is of the last hour: recent events start workflows and end waits, which other cases measure.
        now = datetime.now(UTC)
        weights = [weight for _, weight, _ in _KINDS]
        return [self._event(kind, now) for kind in self.rng.choices(_KINDS, weights, k=count)]

    def batches(self, count: int) -> list[list[Event]]:
        return [self.events(BATCH) for _ in range(count)]

    def _event(self, kind: tuple[str, int, Properties], now: datetime) -> Event:
        event_type, _, properties = kind
        ago = timedelta(milliseconds=self.rng.randrange(_HOUR_MS, 24 * _HOUR_MS))
        return {
            "event_id": uuid.uuid4().hex,
            "user_id": self.rng.choice(self.user_ids),
            "event_type": event_type,
            "timestamp": (now - ago).isoformat(),
            "session_id": f"s-{self.rng.randrange(_SESSIONS)}",
            "event_properties": properties(self.rng),
            "device_info": {"device_type": "mobile", "os": "iOS", "app_version": "4.2.0"},
            "location": {"country": "DE", "city": "Berlin"},
        }


async def crowd(stack: Stack, prefix: str, count: int = USERS) -> Crowd:
    """Create users who consent to the collection of their events."""
    return Crowd(await stack.add_users(prefix, count, consents={"data_collection": True}), random.Random(7))


@asynccontextmanager
async def senders(stack: Stack, count: int = CONNECTIONS) -> AsyncIterator[list[Connection]]:
    """Connections with an integrator's key, which no rate limit slows."""
    async with connections(stack.url, stack.weak_key, count) as opened:
        yield opened


async def send_batches(opened: Sequence[Connection], batches: Sequence[Sequence[Event]]) -> Burst:
    """Send batches, one at a time on each connection."""
    return await burst(batches, [partial(send_batch, one) for one in opened])


async def send_batch(connection: Connection, batch: Sequence[Event]) -> None:
    """Send a batch. Raises RuntimeError unless all of its events are accepted."""
    response = await connection.request("POST", "/events/batch", {"events": batch})
    if response.status != 202 or response.json()["accepted"] != len(batch):
        raise RuntimeError(f"a batch was not accepted: {response.status} {response.body[:300]!r}")


async def send_one(connection: Connection, event: Event) -> None:
    """Send a single event. Raises RuntimeError unless it is accepted."""
    response = await connection.request("POST", "/events", event)
    if response.status != 202:
        raise RuntimeError(f"an event was not accepted: {response.status} {response.body[:300]!r}")


async def projected(stack: Stack) -> float:
    """Wait until the projector has read all events; returns the seconds."""

    async def nothing_left() -> bool:
        async with stack.database.connection() as connection:
            return not await connection.fetchval(
                """SELECT EXISTS (
                       SELECT FROM log_cursors c JOIN events e ON e.shard = c.shard
                          AND (e.generation, e.xid, e.sequence) > (c.generation, c.xid, c.sequence)
                        WHERE c.consumer = 'projector')"""
            )

    return await until(nothing_left, _CAUGHT_UP_WITHIN, "the projector did not catch up")
