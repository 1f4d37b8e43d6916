"""Event types that an admin has declared: custom ones, and the legal basis of standard ones.

A declaration applies to the next event in every process.
"""

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
from models.vocabulary import Basis
from store.connection import Connection
from store.statements import one_of, parameters, select, statement

_CACHE_SIZE = 1000


@dataclass(frozen=True)
class StoredEventType:
    """An event type with its legal basis, and the time of its last change; None for an undeclared standard one."""

    declared: EventType
    changed_at: datetime | None = None
    basis: Basis = Basis.CONSENT
    basis_reason: str | None = None


@dataclass(frozen=True)
class Declared:
    """The outcome of a declaration."""

    stored: StoredEventType
    is_new: bool
    basis_before: Basis


_STORED: list[Any] = [
    col(EventTypeRow.event_type),
    col(EventTypeRow.description),
    col(EventTypeRow.json_schema),
    col(EventTypeRow.pii),
    col(EventTypeRow.dimensions),
    col(EventTypeRow.changed_at),
    col(EventTypeRow.basis),
    col(EventTypeRow.basis_reason),
]
_LIST = statement(select(*_STORED).order_by(col(EventTypeRow.event_type)))


async def list_all(connection: Connection) -> list[StoredEventType]:
    """All standard types, then all custom types by name."""
    stored = {row["event_type"]: _stored(row) for row in await _LIST.fetch(connection)}
    standard = [stored.pop(name, StoredEventType(each)) for name, each in STANDARD.items()]
    return [*standard, *stored.values()]


_CHANGED = ("description", "json_schema", "pii", "dimensions", "basis", "basis_reason")
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
    ).returning(
        *_STORED,
        literal_column("old.event_type IS NULL").label("is_new"),
        literal_column("coalesce(old.basis, 'consent')").label("basis_before"),
    )
)


async def declare(
    connection: Connection,
    declared: EventType,
    basis: Basis = Basis.CONSENT,
    basis_reason: str | None = None,
) -> Declared:
    """Add or replace a custom type. Of a standard type only the basis counts."""
    row = await _DECLARE.fetchrow(
        connection,
        event_type=declared.event_type,
        description=declared.description,
        json_schema=declared.schema,
        pii=list(declared.pii),
        dimensions=list(declared.dimensions),
        basis=basis.value,
        basis_reason=basis_reason,
    )
    assert row is not None  # RETURNING gives the row
    return Declared(_stored(row), bool(row["is_new"]), Basis(row["basis_before"]))


def _stored(row: Record) -> StoredEventType:
    declared = STANDARD.get(row["event_type"]) or EventType(
        row["event_type"], row["description"], row["json_schema"], tuple(row["pii"]), tuple(row["dimensions"])
    )
    return StoredEventType(declared, row["changed_at"], Basis(row["basis"]), row["basis_reason"])


_BASES = statement(
    select(col(EventTypeRow.event_type), col(EventTypeRow.basis)).where(
        one_of(col(EventTypeRow.event_type), "names"), col(EventTypeRow.basis) != Basis.CONSENT.value
    )
)


async def bases_beside_consent(connection: Connection, names: Collection[str]) -> Mapping[str, str]:
    """The declared basis of each of the types that need no consent."""
    return {row["event_type"]: row["basis"] for row in await _BASES.fetch(connection, names=list(names))}


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
