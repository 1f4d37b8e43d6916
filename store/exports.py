"""Reads all stored data of a person, table by table, for an export.

This module names no table. :func:`models.data_map.exported_columns` returns the tables and their columns, so a
table that is declared there is in every export.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import asyncpg
from sqlalchemy import ColumnElement, Index, Table, bindparam, func, inspect, literal_column, tuple_
from sqlmodel import SQLModel, col

from models.data_map import OWNER_COLUMNS, exported_columns
from models.personal import ROW_COLUMNS, personal_columns
from models.tables.execution import Instance
from models.tables.registry import TABLES
from privacy.encryption import Cipher, DataKey, DecryptionError
from store.connection import Connection
from store.statements import Statement, select, statement
from store.users import data_keys

logger = logging.getLogger("perennial.store")

PAGE = 500
"""The most rows that one page reads."""
BYTES = 4 * 1024 * 1024
"""One page reads encrypted values of at most this size, and up to one more row. A body may have megabytes."""
OF_INSTANCE = "instance_id"
"""Rows of tables with this owner column belong to an instance, and are read with its workflow id."""
_WORKFLOW = "workflow_id"
_PLAIN_TEXTS = frozenset({"attempts.error_message"})
"""Columns that encrypt a text; all others encrypt JSON."""


@dataclass(frozen=True)
class ExportedTable:
    model: type[SQLModel]
    columns: tuple[str, ...]
    owner: str
    """The column with the id of the person or the instance."""
    row: tuple[str, ...]
    """The columns to which encrypted values are bound."""
    order: tuple[str, ...]
    """Columns that order a person's rows uniquely and are never updated."""

    @property
    def name(self) -> str:
        return str(self.model.__tablename__)


@dataclass(frozen=True)
class Page:
    """Decrypted rows by column. ``last`` is the position of the last row; None if there are no more rows."""

    rows: Sequence[Mapping[str, Any]]
    last: tuple[Any, ...] | None


@cache
def tables() -> tuple[ExportedTable, ...]:
    """The exported tables, in the order of the data map."""
    models = {str(each.__tablename__): each for each in TABLES}
    return tuple(_table(models[name], tuple(columns)) for name, columns in exported_columns().items())


def _table(model: type[SQLModel], columns: tuple[str, ...]) -> ExportedTable:
    owner = OWNER_COLUMNS.get(str(model.__tablename__), "user_id")
    table = _declared(model)
    order = [*_index_on(table, owner), *(each.name for each in table.primary_key)]
    if owner != OF_INSTANCE:
        order = [each for each in order if each != owner]
    row = ROW_COLUMNS.get(str(model.__tablename__), ())
    return ExportedTable(model, columns, owner, row, tuple(dict.fromkeys(order)) or (owner,))


def _declared(model: type[SQLModel]) -> Table:
    table = inspect(model).local_table
    assert isinstance(table, Table)
    return table


def _index_on(table: Table, owner: str) -> list[str]:
    """The columns of the shortest index that begins with ``owner``; none without one."""
    found = [names for index in table.indexes if (names := _names(index))[:1] == [owner]]
    return min(found, key=len, default=[])


def _names(index: Index) -> list[str]:
    return [each.name for each in index.columns]


async def page(
    connection: Connection, cipher: Cipher, user_id: str, table: ExportedTable, after: tuple[Any, ...] | None
) -> Page:
    """A person's rows after a position, up to :data:`PAGE` and :data:`BYTES`.

    Call it in a new transaction for each page, since it reads the data key there. Raises :class:`UserErasedError`
    once the key is destroyed, also in the middle of an export, and :class:`DecryptionError` for a damaged key. A
    damaged value is None.
    """
    key = await data_keys.require(connection, cipher, user_id)
    position = {} if after is None else dict(zip(_after_names(table), after, strict=True))
    rows = await _statement(table, first=after is None).fetch(
        connection, user_id=user_id, page=PAGE, bytes=BYTES, **position
    )
    last = tuple(rows[-1][name] for name in table.order) if rows else None
    return Page([_decrypted(table, key, row) for row in rows], last)


def _after_names(table: ExportedTable) -> list[str]:
    return [f"after_{name}" for name in table.order]


@cache
def _statement(table: ExportedTable, *, first: bool) -> Statement:
    own = _declared(table.model).columns
    order = [own[name] for name in table.order]
    size = _size([own[name] for name in personal_columns(table.model)])
    columns: list[ColumnElement[Any]] = [
        own[name] for name in dict.fromkeys((*table.columns, *table.order, *table.row))
    ]
    if table.owner == OF_INSTANCE:
        columns.append(col(Instance.workflow_id))  # type: ignore[arg-type]  # typed as Mapped, but a ColumnElement
    rows = select(*columns, (func.sum(size).over(order_by=order) - size).label("bytes_before"))
    if table.owner == OF_INSTANCE:
        rows = rows.join(Instance, col(Instance.instance_id) == own[OF_INSTANCE])
        rows = rows.where(col(Instance.user_id) == bindparam("user_id"))
    else:
        rows = rows.where(own[table.owner] == bindparam("user_id"))
    if not first:
        position = [
            bindparam(name, type_=each.type) for name, each in zip(_after_names(table), order, strict=True)
        ]
        rows = rows.where(tuple_(*order) > tuple_(*position))
    found = rows.order_by(*order).limit(bindparam("page")).subquery("found")
    return statement(
        select(*(each for each in found.columns if each.name != "bytes_before"))
        .where(found.columns["bytes_before"] < bindparam("bytes"))
        .order_by(*(found.columns[name] for name in table.order))
    )


def _size(encrypted: Sequence[ColumnElement[Any]]) -> ColumnElement[int]:
    zero: ColumnElement[int] = literal_column("0")
    return sum((func.coalesce(func.octet_length(each), zero) for each in encrypted), start=zero)


def _decrypted(table: ExportedTable, key: DataKey, row: asyncpg.Record) -> dict[str, Any]:
    encrypted = personal_columns(table.model)
    bound_to = tuple(row[name] for name in table.row)
    shown = (*table.columns, _WORKFLOW) if table.owner == OF_INSTANCE else table.columns
    return {
        name: _decrypt(key, f"{table.name}.{name}", row[name], bound_to) if name in encrypted else row[name]
        for name in shown
    }


def _decrypt(key: DataKey, place: str, encrypted: bytes | None, row: Sequence[str | int]) -> Any:
    try:
        if encrypted is not None and place in _PLAIN_TEXTS:
            return key.decrypt(place, encrypted, *row).decode()
        return key.decrypt_json(place, encrypted, *row)
    except DecryptionError as error:
        logger.error("an export leaves out a value: %s", error, extra={"user_id": key.subject})
        return None


# Compile at import, so that the test that prepares all statements includes these.
for _each in tables():
    _statement(_each, first=True)
    _statement(_each, first=False)
