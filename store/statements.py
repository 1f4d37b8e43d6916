"""Compiles SQLModel statements once, and runs them on asyncpg connections.

    _FIND = statement(
        select(col(User.user_id), col(User.version)).where(col(User.user_id) == bindparam("user_id"))
    )
    row = await _FIND.fetchrow(connection, user_id="u-1")

- Build statements at import, as constants of a module. :func:`statement` compiles; a run only builds the list of
  arguments. A missing or unknown parameter raises ``TypeError`` before the statement is sent.
- ``bindparam("name")`` is a parameter. A value in an expression (``col(X.status) == "open"``) is a bound constant.
  Neither becomes part of the text. Use ``literal_column`` if the planner must know a value:
  ``.limit(literal_column("1"))``.
- ``insert(X).values(parameters("a", "b"))`` binds columns by name. An insert returns only the columns in
  ``.returning()``. Columns with a Python default must be given.
- Import ``select`` from here, since SQLModel's own is typed for at most four columns.
- Lists: ``one_of(col(X.id), "ids")`` is ``id = ANY($1)``. ``in_()`` raises ``TypeError``, since it needs a
  statement per length. Insert or join many rows with :func:`unnested`; ``.values([...])`` is 26 times slower.
- Optional filters of a list: :func:`filtered`.
- Write ``cast(bindparam("x"), Text)`` if Postgres can't infer a type; ``:x::text`` isn't parsed.
- PostgreSQL 18's ``old.`` and ``new.`` in RETURNING need ``literal_column("old.user_id")``.
- The pool's codec encodes JSONB values; None is NULL. asyncpg decodes results.
- :func:`sql` wraps SQL text with ``:name`` parameters, for the exceptions in ADR 0030.

The compiler's order of parameters (``positiontup``, ``binds``) isn't public API. So pyproject.toml bounds
SQLAlchemy's minor version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any, cast

import sqlmodel
from asyncpg import Record
from asyncpg.cursor import CursorFactory
from sqlalchemy import (
    ARRAY,
    BindParameter,
    Boolean,
    ClauseElement,
    ColumnElement,
    Dialect,
    Select,
    String,
    Text,
    any_,
    bindparam,
    func,
    text,
)
from sqlalchemy import column as named_column
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import Insert
from sqlalchemy.sql.elements import SQLCoreOperations
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.sql.visitors import iterate
from sqlalchemy.types import TypeEngine

from store.connection import Connection


class _Text(Text):
    render_bind_cast = True


class _Dialect(PGDialect_asyncpg):
    """Casts strings to TEXT, the type of the columns; SQLAlchemy's own dialect casts them to VARCHAR."""

    supports_statement_cache = True
    colspecs = {**PGDialect_asyncpg.colspecs, String: _Text}  # noqa: RUF012 - as the base class declares it


_DIALECT: Dialect = _Dialect()  # type: ignore[no-untyped-call]
_REGISTERED: list[Statement | FilteredStatement] = []


class Statement:
    """A compiled statement: ``text`` with $1, $2, ..., and the ``names`` of its parameters."""

    __slots__ = ("_arguments", "_places", "names", "text")

    def __init__(self, compiled: SQLCompiler) -> None:
        self.text = str(compiled)
        self._arguments: list[object] = []
        self._places: list[tuple[int, str]] = []
        for place, name in enumerate(compiled.positiontup or ()):
            bind = compiled.binds[name]
            self._arguments.append(None if bind.required else _constant(bind))
            if bind.required:
                self._places.append((place, name))
            if bind.required and not _takes_unconverted(bind.type):
                raise TypeError(f"parameter {name!r}: asyncpg can't take {bind.type!r} without a conversion")
        self.names = frozenset(name for _, name in self._places)

    def __repr__(self) -> str:
        return f"Statement({self.text!r})"

    def arguments(self, values: Mapping[str, object]) -> list[object]:
        """The values in the order of $1, $2, ...; raises ``TypeError`` for a missing or unknown parameter."""
        if values.keys() != self.names:
            raise TypeError(f"takes {sorted(self.names)}, not {sorted(values)}: {self.text}")
        arguments = self._arguments.copy()  # with the constants
        for place, name in self._places:
            arguments[place] = values[name]
        return arguments

    async def fetch(self, connection: Connection, /, **values: object) -> list[Record]:
        return await connection.fetch(self.text, *self.arguments(values))

    async def fetchrow(self, connection: Connection, /, **values: object) -> Record | None:
        return await connection.fetchrow(self.text, *self.arguments(values))

    async def fetchval(self, connection: Connection, /, **values: object) -> Any:
        return await connection.fetchval(self.text, *self.arguments(values))

    async def execute(self, connection: Connection, /, **values: object) -> int:
        """Returns the number of rows that the statement wrote or returned."""
        status = await connection.execute(self.text, *self.arguments(values))
        count = status.rpartition(" ")[2]
        return int(count) if count.isdecimal() else 0

    async def executemany(self, connection: Connection, rows: Iterable[Mapping[str, object]], /) -> None:
        """Run the statement for each row, in few round trips and atomically."""
        await connection.executemany(self.text, [self.arguments(row) for row in rows])

    def cursor(self, connection: Connection, prefetch: int, /, **values: object) -> CursorFactory[Record]:
        """Iterate over rows, fetching ``prefetch`` at a time; needs a transaction."""
        return connection.cursor(self.text, *self.arguments(values), prefetch=prefetch)


class FilteredStatement:
    """A select with optional filters. Each set of filters is compiled once, on its first use."""

    def __init__(self, base: Select[Any], conditions: Mapping[str, ColumnElement[bool]]) -> None:
        self._base = base
        self._conditions = conditions
        self._names = {key: _parameters_of(condition) for key, condition in conditions.items()}
        self._optional = frozenset[str]().union(*self._names.values())
        self._compiled: dict[frozenset[str], Statement] = {}
        self._with(frozenset(conditions))  # at import, to fail early if a type can't be bound

    async def fetch(self, connection: Connection, /, **values: object) -> list[Record]:
        """A filter applies unless its parameters are None or missing."""
        given = {name: value for name, value in values.items() if value is not None or name not in self._optional}
        wanted = frozenset(key for key, names in self._names.items() if names & given.keys())
        return await self._with(wanted).fetch(connection, **given)

    def variants(self) -> Iterator[Statement]:
        """The statements of all sets of filters."""
        for count in range(len(self._conditions) + 1):
            for keys in combinations(self._conditions, count):
                yield self._with(frozenset(keys))

    def _with(self, keys: frozenset[str]) -> Statement:
        found = self._compiled.get(keys)
        if found is None:
            conditions = [condition for key, condition in self._conditions.items() if key in keys]
            found = self._compiled[keys] = _compile(self._base.where(*conditions))
        return found


def statement(clause: ClauseElement) -> Statement:
    """Compile a select, insert, update or delete; raises ``TypeError`` if asyncpg can't run it."""
    compiled = _compile(clause)
    _REGISTERED.append(compiled)
    return compiled


def select(*columns: Any) -> Select[Any]:
    """SQLModel's ``select``, typed for any number of columns."""
    selected: Select[Any] = sqlmodel.select(*columns)
    return selected


def sql(statement_text: str) -> Statement:
    """SQL text with ``:name`` parameters. A comment above the call says why it isn't a SQLModel statement."""
    return statement(text(statement_text))


def filtered(base: Select[Any], **conditions: ColumnElement[bool]) -> FilteredStatement:
    """A select whose ``conditions`` apply only to runs that give their parameters."""
    compiled = FilteredStatement(base, conditions)
    _REGISTERED.append(compiled)
    return compiled


def registered() -> Iterator[Statement]:
    """All statements of the imported modules. A test prepares each on the migrated schema."""
    for each in _REGISTERED:
        if isinstance(each, Statement):
            yield each
        else:
            yield from each.variants()


def parameters(*names: str) -> dict[str, BindParameter[Any]]:
    """Parameters for ``.values()``, each named after its column."""
    return {name: bindparam(name) for name in names}


def one_of(column: SQLCoreOperations[Any], name: str) -> ColumnElement[bool]:
    """``column = ANY($n)``; the parameter ``name`` is a list."""
    return _element(column) == any_(bindparam(name, type_=ARRAY(_element(column).type)))


def unnested(name: str, *columns: SQLCoreOperations[Any]) -> TableValuedAlias:
    """``unnest($1, $2, ...) AS name``: one list parameter per column, with the column's name and type."""
    elements = [_element(column) for column in columns]
    lists = [bindparam(each.key, type_=ARRAY(each.type)) for each in elements]
    own = [named_column(str(each.key), each.type) for each in elements]
    return func.unnest(*lists).table_valued(*own).render_derived(name=name)


def _element(column: SQLCoreOperations[Any]) -> ColumnElement[Any]:
    return cast(
        "ColumnElement[Any]", column
    )  # col() types a column of a model as Mapped, which hides type and key


def _compile(clause: ClauseElement) -> Statement:
    if isinstance(clause, Insert):
        clause = clause.inline()  # else the compiler adds RETURNING of the primary key
    compiled = clause.compile(dialect=_DIALECT)
    if not isinstance(compiled, SQLCompiler):
        raise TypeError(f"not a statement: {clause!r}")
    if any(bind.expanding or bind.literal_execute for bind in compiled.binds.values()):
        raise TypeError(f"in_() makes a statement for each length; use one_of(): {compiled}")
    if compiled.prefetch:
        raise TypeError(f"give the columns that have a Python default: {compiled.prefetch}")
    return Statement(compiled)


def _parameters_of(condition: ColumnElement[bool]) -> frozenset[str]:
    return frozenset(each.key for each in iterate(condition) if isinstance(each, BindParameter) and each.required)


def _takes_unconverted(kind: TypeEngine[Any]) -> bool:
    if isinstance(kind, ARRAY):
        return _takes_unconverted(kind.item_type)
    # A JSONB value goes to the pool's codec as it is. Boolean's processor only checks the value.
    if isinstance(kind, JSONB | Boolean):
        return True
    return kind.dialect_impl(_DIALECT).bind_processor(_DIALECT) is None


def _constant(bind: BindParameter[Any]) -> object:
    processor = (
        None if _takes_unconverted(bind.type) else bind.type.dialect_impl(_DIALECT).bind_processor(_DIALECT)
    )
    return bind.effective_value if processor is None else processor(bind.effective_value)
