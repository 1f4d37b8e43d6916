"""What is held on a person, table by table, for an export.

Nothing here names a table: which are read, and which of their columns, :func:`models.data_map.exported` says, so
that whatever is declared there is in every export from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import asyncpg
from sqlalchemy import Index, Table, inspect
from sqlmodel import SQLModel

from models.data_map import WHOSE, exported
from models.personal import personal_columns
from models.tables.registry import TABLES
from privacy.encryption import Cipher, DataKey
from store.connection import Connection
from store.users import data_keys

PAGE = 500
"""Rows that are read at once, at most."""
BYTES = 4 * 1024 * 1024
"""Of encrypted values that are read at once, up to one row more: a body may have megabytes."""
OF_INSTANCE = "instance_id"
"""What says whose a row is that belongs to an instance; such a row is read with the name of its workflow."""
_WORKFLOW = "workflow_id"
_PLAIN_TEXTS = frozenset({"attempts.error_message"})
"""What is encrypted as a text; all else is encrypted as JSON."""


@dataclass(frozen=True)
class ExportedTable:
    """A table, and what of it an export holds."""

    model: type[SQLModel]
    columns: tuple[str, ...]
    whose: str
    """The column that says whose a row is."""
    order: tuple[str, ...]
    """The columns, whose values a row keeps, by which a person's rows are read and no two are alike."""

    @property
    def name(self) -> str:
        """The table's name."""
        return str(self.model.__tablename__)


@dataclass(frozen=True)
class Page:
    """Rows, opened, as column and value; ``last`` is the position of the last one, None where there are none: only
    then no page follows."""

    rows: Sequence[Mapping[str, Any]]
    last: tuple[Any, ...] | None


@cache
def tables() -> tuple[ExportedTable, ...]:
    """The tables that an export holds, in the order of the data map."""
    models = {str(each.__tablename__): each for each in TABLES}
    return tuple(_table(models[name], tuple(columns)) for name, columns in exported().items())


def _table(model: type[SQLModel], columns: tuple[str, ...]) -> ExportedTable:
    whose = WHOSE.get(str(model.__tablename__), "user_id")
    mapper = inspect(model)
    key = [each.name for each in mapper.primary_key]
    assert isinstance(mapper.local_table, Table)  # a model of a table
    order = [*_index_of(mapper.local_table, whose), *key]
    if whose != OF_INSTANCE:
        order = [each for each in order if each != whose]
    return ExportedTable(model, columns, whose, tuple(dict.fromkeys(order)) or (whose,))


def _index_of(table: Table, whose: str) -> list[str]:
    """The columns of the index, of several the shortest, that leads from a person to the rows; else none."""
    leading = [names for index in table.indexes if (names := _names(index))[:1] == [whose]]
    return min(leading, key=len, default=[])


def _names(index: Index) -> list[str]:
    return [each.name for each in index.columns]


async def page(
    connection: Connection, cipher: Cipher, user_id: str, table: ExportedTable, after: tuple[Any, ...] | None
) -> Page:
    """Some rows of a person after a position, the first ones after None: up to :data:`PAGE` and :data:`BYTES`.

    To be called in a transaction of its own: the data key is read in it. Raises :class:`UserErasedError` where it has
    been destroyed, however far an export has come.
    """
    key = await data_keys.require(connection, cipher, user_id)
    rows = await connection.fetch(_statement(table, first=after is None), user_id, PAGE, BYTES, *(after or ()))
    last = tuple(rows[-1][name] for name in table.order) if rows else None
    return Page([_opened(table, key, row) for row in rows], last)


@cache
def _statement(table: ExportedTable, *, first: bool) -> str:
    names = [f"t.{name}" for name in dict.fromkeys((*table.columns, *table.order))]
    source, whose = f"{table.name} t", f"t.{table.whose}"
    if table.whose == OF_INSTANCE:
        names.append(f"i.{_WORKFLOW}")
        source, whose = f"{source} JOIN instances i USING ({OF_INSTANCE})", "i.user_id"
    order = ", ".join(f"t.{name}" for name in table.order)
    places = ", ".join(f"${place}" for place in range(4, 4 + len(table.order)))
    after = "" if first else f"AND ({order}) > ({places})"
    size = " + ".join(f"coalesce(octet_length(t.{name}), 0)" for name in personal_columns(table.model)) or "0"
    return f"""SELECT * FROM (
                   SELECT {", ".join(names)}, sum({size}) OVER (ORDER BY {order}) - ({size}) AS bytes_before
                     FROM {source} WHERE {whose} = $1 {after} ORDER BY {order} LIMIT $2) p
                WHERE bytes_before < $3 ORDER BY {", ".join(table.order)}"""


def _opened(table: ExportedTable, key: DataKey, row: asyncpg.Record) -> dict[str, Any]:
    encrypted = personal_columns(table.model)
    shown = (*table.columns, _WORKFLOW) if table.whose == OF_INSTANCE else table.columns
    return {
        name: _open(key, f"{table.name}.{name}", row[name]) if name in encrypted else row[name] for name in shown
    }


def _open(key: DataKey, place: str, encrypted: bytes | None) -> Any:
    if encrypted is not None and place in _PLAIN_TEXTS:
        return key.decrypt(place, encrypted).decode()
    return key.decrypt_json(place, encrypted)
