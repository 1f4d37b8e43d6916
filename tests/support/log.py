"""Events in the log, written as ingest writes them, and their projection."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from activities.projector import Follower, Found
from models.rules.activity import Activity
from models.rules.sharding import SHARDS, shard_of
from privacy.encryption import Cipher
from runtime.database import Database
from store.connection import Connection
from store.events.events import BODY
from store.users import data_keys, users
from testing.people import Customer

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Happening:
    """An event to be written."""

    user_id: str
    event_type: str = "engagement.page_view"
    timestamp: datetime = NOON
    session_id: str = "s-1"
    properties: Mapping[str, Any] = field(default_factory=dict)
    historical: bool = True
    dimensions: Mapping[str, Any] | None = None
    event_id: str = field(default_factory=lambda: uuid.uuid4().hex)


def purchase(user_id: str, amount: Any, currency: str = "USD", **changes: Any) -> Happening:
    """A purchase; ``event_type="transaction.refund"`` makes it a refund."""
    properties = {"order_id": "o-1", "amount": amount, "currency": currency}
    return Happening(
        user_id, **{"event_type": "transaction.purchase_complete", "properties": properties, **changes}
    )


def click(user_id: str, feature: Any, **changes: Any) -> Happening:
    """A click on a feature."""
    return Happening(user_id, "engagement.feature_click", properties={"feature": feature}, **changes)


class Log:
    """Writes events and projects them."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self.database = database
        self.cipher = cipher

    async def person(self, shard: int | None = None) -> str:
        """The id of a new user, in a given shard or any."""
        while True:
            customer = await Customer.new(self.database, self.cipher)
            if shard is None or shard_of(customer.user_id) == shard:
                return customer.user_id

    async def write(self, *happenings: Happening, raw: bytes | None = None) -> None:
        """Commit events, each body encrypted with its user's key; ``raw`` replaces the bodies."""
        for month in {each.timestamp.date().replace(day=1) for each in happenings}:
            async with self.database.connection() as connection:
                await connection.execute("SELECT ensure_events_partition($1)", month)
        async with self.database.transaction() as connection:
            await self.insert(connection, happenings, raw=raw)

    async def insert(
        self, connection: Connection, happenings: Sequence[Happening], *, raw: bytes | None = None
    ) -> None:
        """Insert events in the caller's transaction; their partitions must exist."""
        keys = await data_keys.find(connection, self.cipher, {each.user_id for each in happenings})
        generation = await connection.fetchval("SELECT coalesce((SELECT generation FROM log_generation), 1)")
        rows = []
        for each in happenings:
            key = keys[each.user_id]
            assert key is not None
            body = raw or key.encrypt_json(BODY, {"event_properties": dict(each.properties)}, each.event_id)
            shard = shard_of(each.user_id)
            rows.append(
                (
                    each.event_id,
                    each.user_id,
                    each.event_type,
                    each.timestamp,
                    each.session_id,
                    shard,
                    generation,
                    each.historical,
                    body,
                    each.dimensions,
                )
            )
        await connection.executemany(
            """INSERT INTO events (event_id, user_id, event_type, timestamp, session_id, shard, generation,
                                   historical, body, dimensions)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)""",
            rows,
        )

    def follower(self, shard: int) -> Follower:
        """A follower of a shard, without Temporal."""
        return Follower(self.database, self.cipher, (), shard)

    async def project(self, shards: Sequence[int] = range(SHARDS)) -> None:
        """Project all settled events."""
        for shard in shards:
            await drain(self.follower(shard))

    async def activity(self, user_id: str) -> Activity:
        """The present activity of a user."""
        async with self.database.connection() as connection:
            return (await users.find(connection, self.cipher, user_id)).activity


async def drain(follower: Follower) -> None:
    """Step until no settled event is left."""
    while await follower.step() not in (Found.NOTHING, Found.UNSETTLED):
        pass
