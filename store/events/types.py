"""Event types that an admin has declared: custom ones, and the legal basis of standard ones.

A declaration applies to the next event in every process. Each change makes a version (ADR 0050) in the transaction
of the declaration: a crash leaves both or neither.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from asyncpg import Record
from sqlalchemy import bindparam, func, literal_column, or_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.errors import EventTypeNotFoundError
from models.rules.event_types import EventType
from models.rules.taxonomy import STANDARD
from models.tables.events import EventType as EventTypeRow
from models.tables.events import EventTypeVersion as VersionRow
from models.vocabulary import Basis
from store.connection import Connection
from store.statements import filtered, one_of, parameters, select, statement

_CACHE_SIZE = 1000


@dataclass(frozen=True)
class StoredEventType:
    """An event type with its legal basis, and the version and time of its last change.

    An undeclared standard type has neither version nor time.
    """

    declared: EventType
    changed_at: datetime | None = None
    basis: Basis = Basis.CONSENT
    basis_reason: str | None = None
    version: int | None = None


@dataclass(frozen=True)
class EventTypeVersion:
    """A declaration, and the id of the API key that made it."""

    stored: StoredEventType
    actor: str


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
    col(EventTypeRow.version),
]
_LOAD = statement(select(*_STORED).where(one_of(col(EventTypeRow.event_type), "names")))
_NAMES = list(STANDARD)
_CUSTOM = filtered(
    select(*_STORED)
    .where(~one_of(col(EventTypeRow.event_type), "standard"))
    .order_by(col(EventTypeRow.event_type))
    .limit(bindparam("limit")),
    after=col(EventTypeRow.event_type) > bindparam("after"),
)


async def page(connection: Connection, *, after: str | None, limit: int) -> list[StoredEventType]:
    """Up to ``limit`` types after one of this name: the standard ones, then the custom ones by name."""
    if after is None or after in STANDARD:
        names = _NAMES[0 if after is None else _NAMES.index(after) + 1 :][:limit]
        declared = await _load(connection, names)
        standard = [declared.get(name) or StoredEventType(STANDARD[name]) for name in names]
        after = None
    else:
        standard = []
    rows = await _CUSTOM.fetch(connection, standard=_NAMES, after=after, limit=limit - len(standard))
    return [*standard, *map(_stored, rows)]


async def find(connection: Connection, event_type: str) -> StoredEventType:
    """A standard or declared type. Raises :class:`EventTypeNotFoundError`."""
    found = (await _load(connection, [event_type])).get(event_type)
    if found is None and event_type in STANDARD:
        return StoredEventType(STANDARD[event_type])
    if found is None:
        raise EventTypeNotFoundError
    return found


async def _load(connection: Connection, names: list[str]) -> dict[str, StoredEventType]:
    return {row["event_type"]: _stored(row) for row in await _LOAD.fetch(connection, names=names)}


_CHANGED = ("description", "json_schema", "pii", "dimensions", "basis", "basis_reason")
_COLUMNS = EventTypeRow.__table__.c  # type: ignore[attr-defined]
_NEW = insert(EventTypeRow).values(parameters("event_type", *_CHANGED))
_DECLARE = statement(
    _NEW.on_conflict_do_update(
        index_elements=["event_type"],
        set_={name: _NEW.excluded[name] for name in _CHANGED}
        # Caches compare this time, so it must grow even if the clock doesn't.
        | {
            "changed_at": func.greatest(
                func.clock_timestamp(), col(EventTypeRow.changed_at) + timedelta(microseconds=1)
            ),
            "version": col(EventTypeRow.version) + 1,
        },
        where=or_(*(_COLUMNS[name].is_distinct_from(_NEW.excluded[name]) for name in _CHANGED)),
    ).returning(
        *_STORED,
        literal_column("old.event_type IS NULL").label("is_new"),
        literal_column("coalesce(old.basis, 'consent')").label("basis_before"),
    )
)


_VERSION = ("event_type", "version", "changed_at", *_CHANGED)
_ADD_VERSION = statement(insert(VersionRow).values(parameters("actor", *_VERSION)))


async def declare(
    connection: Connection,
    declared: EventType,
    basis: Basis = Basis.CONSENT,
    basis_reason: str | None = None,
    *,
    actor: str,
) -> Declared:
    """Add or replace a custom type. Of a standard type only the basis counts.

    A change makes the next version; an equal declaration changes nothing. The statement locks the type's row, also
    if nothing changes, so declarations of a type take turns: their versions have no gap, and none is lost.
    """
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
    if row is None:
        stored = await find(connection, declared.event_type)
        return Declared(stored, is_new=False, basis_before=stored.basis)
    await _ADD_VERSION.execute(connection, actor=actor, **{name: row[name] for name in _VERSION})
    return Declared(_stored(row), bool(row["is_new"]), Basis(row["basis_before"]))


_VERSIONS = filtered(
    select(*(VersionRow.__table__.c[name] for name in ("actor", *_VERSION)))  # type: ignore[attr-defined]
    .where(col(VersionRow.event_type) == bindparam("event_type"))
    .order_by(col(VersionRow.version).desc())
    .limit(bindparam("limit")),
    before=col(VersionRow.version) < bindparam("before"),
)


async def versions(
    connection: Connection, event_type: str, *, before: int | None, limit: int
) -> list[EventTypeVersion]:
    """Up to ``limit`` versions of a type, newest first; none of an undeclared standard type.

    Raises :class:`EventTypeNotFoundError`.
    """
    await find(connection, event_type)
    rows = await _VERSIONS.fetch(connection, event_type=event_type, before=before, limit=limit)
    return [EventTypeVersion(_with_basis(_declaration(row), row), row["actor"]) for row in rows]


def _stored(row: Record) -> StoredEventType:
    return _with_basis(STANDARD.get(row["event_type"]) or _declaration(row), row)


def _declaration(row: Record) -> EventType:
    return EventType(
        row["event_type"], row["description"], row["json_schema"], tuple(row["pii"]), tuple(row["dimensions"])
    )


def _with_basis(declared: EventType, row: Record) -> StoredEventType:
    return StoredEventType(declared, row["changed_at"], Basis(row["basis"]), row["basis_reason"], row["version"])


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
        loaded = await _load(connection, names)
        if len(self._compiled) + len(loaded) > _CACHE_SIZE:
            self._compiled.clear()
        self._compiled |= loaded
        return loaded
