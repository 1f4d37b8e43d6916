"""Custom event types. An admin's declaration applies to the next event in every process."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from asyncpg import Record
from sqlalchemy import func, literal_column
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.rules.event_types import EventType
from models.rules.taxonomy import STANDARD
from models.tables.events import EventType as EventTypeRow
from store.connection import Connection
from store.statements import one_of, parameters, select, statement

_CACHE_SIZE = 1000


@dataclass(frozen=True)
class StoredEventType:
    """A custom event type, and the time of its last change."""

    declared: EventType
    changed_at: datetime


_STORED: list[Any] = [
    col(EventTypeRow.event_type),
    col(EventTypeRow.description),
    col(EventTypeRow.json_schema),
    col(EventTypeRow.pii),
    col(EventTypeRow.dimensions),
    col(EventTypeRow.changed_at),
]
_LIST = statement(select(*_STORED).order_by(col(EventTypeRow.event_type)))


async def list_all(connection: Connection) -> list[StoredEventType]:
    """All custom types, by name."""
    return [_stored(row) for row in await _LIST.fetch(connection)]


_CHANGED = ("description", "json_schema", "pii", "dimensions")
_NEW = insert(EventTypeRow).values(parameters("event_type", *_CHANGED))
_DECLARE = statement(
    _NEW.on_conflict_do_update(
        index_elements=["event_type"],
        set_={name: _NEW.excluded[name] for name in _CHANGED}
        # Caches compare this time, so it must grow even if the clock doesn't.
        | {
            "changed_at": func.greatest(
                func.clock_timestamp(), col(EventTypeRow.changed_at) + timedelta(microseconds=1)
            )
        },
    ).returning(*_STORED, literal_column("old.event_type IS NULL").label("is_new"))
)


async def declare(connection: Connection, declared: EventType) -> tuple[StoredEventType, bool]:
    """Add or replace a custom type; returns it and whether it is new."""
    row = await _DECLARE.fetchrow(
        connection,
        event_type=declared.event_type,
        description=declared.description,
        json_schema=declared.schema,
        pii=list(declared.pii),
        dimensions=list(declared.dimensions),
    )
    assert row is not None  # RETURNING gives the row
    return _stored(row), bool(row["is_new"])


def _stored(row: Record) -> StoredEventType:
    declared = EventType(
        row["event_type"], row["description"], row["json_schema"], tuple(row["pii"]), tuple(row["dimensions"])
    )
    return StoredEventType(declared, row["changed_at"])


_CHANGES = statement(
    select(col(EventTypeRow.event_type), col(EventTypeRow.changed_at)).where(
        one_of(col(EventTypeRow.event_type), "names")
    )
)
_LOAD = statement(select(*_STORED).where(one_of(col(EventTypeRow.event_type), "names")))


class EventTypes:
    """A cache of compiled event types; each look-up reads the times of their last changes from Postgres."""

    def __init__(self) -> None:
        self._compiled: dict[str, StoredEventType] = {}

    async def find(self, connection: Connection, names: Collection[str]) -> Mapping[str, EventType]:
        """All standard types, and the custom types among ``names``."""
        custom = set(names) - STANDARD.keys()
        if not custom:
            return STANDARD
        rows = await _CHANGES.fetch(connection, names=list(custom))
        current = {row["event_type"]: self._compiled[row["event_type"]] for row in rows if self._is_current(row)}
        stale = [row["event_type"] for row in rows if row["event_type"] not in current]
        if stale:
            current |= await self._load(connection, stale)
        return {**STANDARD, **{name: stored.declared for name, stored in current.items()}}

    def _is_current(self, row: Record) -> bool:
        cached = self._compiled.get(row["event_type"])
        return cached is not None and cached.changed_at == row["changed_at"]

    async def _load(self, connection: Connection, names: list[str]) -> dict[str, StoredEventType]:
        rows = await _LOAD.fetch(connection, names=names)
        loaded = {row["event_type"]: _stored(row) for row in rows}
        if len(self._compiled) + len(loaded) > _CACHE_SIZE:
            self._compiled.clear()
        self._compiled |= loaded
        return loaded
