"""Custom event types: declared by an admin, valid for the next event in every process."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from models.rules.event_types import EventType
from models.rules.taxonomy import STANDARD
from store.connection import Connection

_KEPT = 1000


@dataclass(frozen=True)
class StoredEventType:
    """A custom event type, and when it was last changed."""

    declared: EventType
    changed_at: datetime


async def list_all(connection: Connection) -> list[StoredEventType]:
    """All custom types in the order of their names."""
    return [_stored(row) for row in await connection.fetch("SELECT * FROM event_types ORDER BY event_type")]


async def declare(connection: Connection, declared: EventType) -> tuple[StoredEventType, bool]:
    """Add a custom type or put it in place of the one that is there; whether it is new."""
    row = await connection.fetchrow(
        """INSERT INTO event_types AS t (event_type, description, json_schema, pii, dimensions)
           VALUES ($1, $2, $3, $4, $5)
           ON CONFLICT (event_type) DO UPDATE SET
               description = excluded.description, json_schema = excluded.json_schema, pii = excluded.pii,
               dimensions = excluded.dimensions,
               changed_at = greatest(clock_timestamp(), t.changed_at + interval '1 microsecond')
           RETURNING *, old.event_type IS NULL AS fresh""",
        declared.event_type,
        declared.description,
        declared.schema,
        list(declared.pii),
        list(declared.dimensions),
    )
    assert row is not None  # RETURNING gives the row
    return _stored(row), bool(row["fresh"])


def _stored(row: asyncpg.Record) -> StoredEventType:
    declared = EventType(
        row["event_type"], row["description"], row["json_schema"], tuple(row["pii"]), tuple(row["dimensions"])
    )
    return StoredEventType(declared, row["changed_at"])


class EventTypes:
    """Event types for use: compiled once for each change, looked up anew every time."""

    def __init__(self) -> None:
        self._compiled: dict[str, StoredEventType] = {}

    async def find(self, connection: Connection, names: Collection[str]) -> Mapping[str, EventType]:
        """The declared ones of some types, as they are now."""
        custom = set(names) - STANDARD.keys()
        if not custom:
            return STANDARD
        rows = await connection.fetch(
            "SELECT event_type, changed_at FROM event_types WHERE event_type = ANY($1::text[])", list(custom)
        )
        current = {row["event_type"]: self._compiled[row["event_type"]] for row in rows if self._is_current(row)}
        stale = [row["event_type"] for row in rows if row["event_type"] not in current]
        if stale:
            current |= await self._load(connection, stale)
        return {**STANDARD, **{name: stored.declared for name, stored in current.items()}}

    def _is_current(self, row: asyncpg.Record) -> bool:
        known = self._compiled.get(row["event_type"])
        return known is not None and known.changed_at == row["changed_at"]

    async def _load(self, connection: Connection, names: list[str]) -> dict[str, StoredEventType]:
        rows = await connection.fetch("SELECT * FROM event_types WHERE event_type = ANY($1::text[])", names)
        loaded = {row["event_type"]: _stored(row) for row in rows}
        if len(self._compiled) + len(loaded) > _KEPT:
            self._compiled.clear()
        self._compiled |= loaded
        return loaded
