"""Each statement of store/ is valid on the migrated schema; and the module that compiles and runs them."""

from __future__ import annotations

import ast
import asyncio
import enum
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import JSON, Column, Enum, PickleType, Text, TypeDecorator, bindparam, column, delete, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Field, SQLModel, col

import store
from models.tables.access import IdempotentAnswer
from models.tables.people import Consent, ConsentRecord, DataKey, User
from models.vocabulary import Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store.statements import Statement, filtered, one_of, parameters, registered, select, sql, statement, unnested
from store.users import users
from testing.people import Customer
from tests.support.processes import ROOT

_SQL = re.compile(r"\b(?:SELECT|RETURNING|INSERT)\b")
_COMMA = re.compile(r"FROM \w+(?: AS \w+)?, ")
_ALL_COLUMNS = re.compile(r"(?:\b(?:SELECT|RETURNING)\s+|\b[a-z_]+\.|,\s*)\*")

for _module in pkgutil.walk_packages(store.__path__, "store."):
    importlib.import_module(_module.name)
STATEMENTS = list(registered())
"""Those of store/ alone: the tests below register others."""


async def test_postgres_prepares_every_statement_on_the_migrated_schema(database: Database) -> None:
    failures = []
    async with database.connection() as connection:
        for each in STATEMENTS:
            try:
                await connection.prepare(each.text)
            except asyncpg.PostgresError as error:
                failures.append(f"{error}: {each.text}")
    assert not failures, "\n\n".join(failures)


def test_no_subquery_reads_a_table_beside_another_without_a_join() -> None:
    """A subquery that SQLAlchemy doesn't correlate lists the outer table, and then reads the rows of all users."""
    assert not [each.text for each in STATEMENTS if _COMMA.search(each.text)]


def test_no_statement_asks_for_all_columns() -> None:
    compiled = [each.text for each in STATEMENTS if _ALL_COLUMNS.search(each.text)]
    written = [
        f"{path.relative_to(store.__path__[0])}: {text}"
        for path in sorted(Path(store.__path__[0]).rglob("*.py"))
        for text in _sql_in(path)
        if _ALL_COLUMNS.search(text)
    ]
    assert not compiled + written, "\n\n".join(compiled + written)


def _sql_in(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in prose:
            continue
        if isinstance(node.value, str) and _SQL.search(node.value):
            yield node.value


_RUNS = {"fetch", "fetchrow", "fetchval", "execute", "executemany", "cursor"}


def test_the_adr_names_each_file_with_sql_text() -> None:
    adr = next((ROOT / "docs/adr").glob("*-statements-through-sqlmodel.md")).read_text()
    named = set(re.findall(r"^\| `(store/[a-z_/]+\.py)` \|", adr, re.MULTILINE))
    found = {
        str(path.relative_to(ROOT))
        for path in Path(store.__path__[0]).rglob("*.py")
        if path.name != "statements.py"
        if any(_is_sql_text(node) for node in ast.walk(ast.parse(path.read_text())))
    }
    assert named == found


def _is_sql_text(node: ast.AST) -> bool:
    """Whether a node calls ``sql()``, or runs a statement on the connection itself."""
    match node:
        case ast.Call(func=ast.Name(id="sql")):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Name(id="connection"), attr=method)):
            return method in _RUNS
        case _:
            return False


async def test_reads_in_transactions_go_on_while_a_column_is_added(
    database: Database, cipher: Cipher, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    user_id = (await Customer.new(database, cipher, Purpose.DATA_COLLECTION)).user_id
    reads, done = [0] * 4, asyncio.Event()

    async def read(reader: int) -> None:
        while not done.is_set():
            async with database.transaction() as connection:
                await users.find(connection, cipher, user_id)
                await users.list_page(connection, cipher, limit=5, after=None)
                await users.lock(connection, cipher, [user_id])
            reads[reader] += 1

    async def until_each_has_read_again() -> None:
        before = list(reads)
        while any(now < then + 3 for now, then in zip(reads, before, strict=True)):
            assert not any(task.done() for task in readers), [task.exception() for task in readers if task.done()]
            await asyncio.sleep(0.01)

    readers = [asyncio.create_task(read(reader)) for reader in range(len(reads))]
    try:
        await until_each_has_read_again()
        await owner.execute("ALTER TABLE users ADD COLUMN extra text")
        await until_each_has_read_again()
    finally:
        done.set()
        await asyncio.gather(*readers, return_exceptions=True)
        await owner.execute("ALTER TABLE users DROP COLUMN IF EXISTS extra")


_KEY = {"subject": "s-1", "wrapped": b"key"}
_INSERT_KEY = statement(insert(DataKey).values(parameters("subject", "wrapped")))


async def test_a_statement_runs_with_named_parameters(database: Database) -> None:
    find = statement(select(col(DataKey.wrapped)).where(col(DataKey.subject) == bindparam("subject")))
    change = statement(
        update(DataKey).values(wrapped=bindparam("new")).where(col(DataKey.subject) == bindparam("subject"))
    )
    async with database.connection() as connection:
        assert await _INSERT_KEY.execute(connection, **_KEY) == 1
        assert await find.fetchval(connection, subject="s-1") == b"key"
        assert await change.execute(connection, new=b"other", subject="s-1") == 1
        assert [tuple(row) for row in await find.fetch(connection, subject="s-1")] == [(b"other",)]
        assert await find.fetchrow(connection, subject="s-2") is None
        assert await statement(delete(DataKey)).execute(connection) == 1


async def test_many_rows_are_inserted_by_unnest_or_one_after_the_other_and_read_by_a_cursor(
    database: Database,
) -> None:
    given = unnested("given", col(DataKey.subject), col(DataKey.wrapped))
    insert_all = statement(
        insert(DataKey)
        .from_select(["subject", "wrapped"], select(given.c.subject, given.c.wrapped))
        .on_conflict_do_nothing()
        .returning(col(DataKey.subject))
    )
    some = statement(
        select(col(DataKey.subject)).where(one_of(col(DataKey.subject), "subjects")).order_by(col(DataKey.subject))
    )
    async with database.transaction() as connection:
        await _INSERT_KEY.executemany(connection, [{"subject": name, "wrapped": b""} for name in ("a", "b")])
        rows = await insert_all.fetch(connection, subject=["b", "c"], wrapped=[b"1", b"2"])
        assert [row["subject"] for row in rows] == ["c"]
        found = [row["subject"] async for row in some.cursor(connection, 2, subjects=["a", "b", "c", "d"])]
        assert found == ["a", "b", "c"]


async def test_a_value_in_an_expression_is_bound_as_a_constant(database: Database) -> None:
    find = statement(
        select(col(Consent.purpose)).where(
            col(Consent.user_id) == bindparam("user_id"), col(Consent.purpose) == Purpose.MARKETING
        )
    )
    assert "marketing" not in find.text
    assert find.names == {"user_id"}
    assert find.arguments({"user_id": "u-1"}) == ["u-1", "marketing"]
    async with database.connection() as connection:
        assert await find.fetch(connection, user_id="u-1") == []


async def test_a_missing_or_unknown_parameter_is_an_error_before_anything_is_sent(database: Database) -> None:
    async with database.transaction() as connection:
        with pytest.raises(TypeError, match=r"takes \['subject', 'wrapped'\], not \['subject'\]"):
            await _INSERT_KEY.execute(connection, subject="s-1")
        with pytest.raises(TypeError, match="wraped"):
            await _INSERT_KEY.execute(connection, **_KEY, wraped=b"")
        assert await _INSERT_KEY.execute(connection, **_KEY) == 1  # the transaction wasn't broken


async def test_an_insert_returns_only_what_it_says() -> None:
    quiet = statement(insert(ConsentRecord).values(parameters("user_id", "purpose")))
    assert "RETURNING" not in quiet.text
    loud = statement(insert(ConsentRecord).values(parameters("user_id")).returning(col(ConsentRecord.record_id)))
    assert loud.text.endswith("RETURNING consent_history.record_id")


async def test_none_in_a_jsonb_column_is_null(database: Database) -> None:
    names = ("key_id", "idempotency_key", "fingerprint", "headers")
    store_answer = statement(insert(IdempotentAnswer).values(parameters(*names)))
    read = statement(select(col(IdempotentAnswer.headers)).where(col(IdempotentAnswer.headers).is_not(None)))
    async with database.connection() as connection:
        for key, headers in (("k-1", None), ("k-2", {"etag": '"1"'})):
            await store_answer.execute(
                connection, key_id=key, idempotency_key="i", fingerprint=b"", headers=headers
            )
        assert [row["headers"] for row in await read.fetch(connection)] == [{"etag": '"1"'}]


_LIST = filtered(
    select(col(DataKey.subject)).order_by(col(DataKey.subject)).limit(bindparam("limit")),
    after=col(DataKey.subject) > bindparam("after"),
    usable=col(DataKey.wrapped) == bindparam("wrapped"),
)


async def test_a_filter_applies_where_its_parameter_is_given(database: Database) -> None:
    async with database.connection() as connection:
        await _INSERT_KEY.executemany(connection, [{"subject": f"s-{n}", "wrapped": bytes([n])} for n in range(3)])

        async def found(**values: object) -> list[str]:
            return [row["subject"] for row in await _LIST.fetch(connection, limit=9, **values)]

        assert await found() == ["s-0", "s-1", "s-2"]
        assert await found(after="s-0", wrapped=None) == ["s-1", "s-2"]
        assert await found(after="s-0", wrapped=b"\x02") == ["s-2"]
        with pytest.raises(TypeError, match="afer"):
            await found(afer=None)


async def test_each_set_of_filters_is_compiled_once() -> None:
    assert [id(each) for each in _LIST.variants()] == [id(each) for each in _LIST.variants()]
    assert len(list(_LIST.variants())) == 4


async def test_sql_text_takes_named_parameters_too(database: Database) -> None:
    both = sql("SELECT cast(:names AS text[]) AS names, ':'::text || :suffix AS joined")
    assert both.names == {"names", "suffix"}
    async with database.connection() as connection:
        row = await both.fetchrow(connection, names=["a"], suffix="b")
    assert row is not None
    assert tuple(row) == (["a"], ":b")


class _Colour(enum.Enum):
    RED = "red"


class _Upper(TypeDecorator[str]):
    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value.upper()


@pytest.mark.parametrize("kind", [Enum(_Colour), JSON(), PickleType(), _Upper()], ids=lambda kind: repr(kind))
def test_a_parameter_type_that_needs_a_conversion_is_an_error(kind: Any) -> None:
    with pytest.raises(TypeError, match="'x': asyncpg can't take"):
        statement(select(column("y")).where(column("y", kind) == bindparam("x")))


class _WithDefault(SQLModel, table=True):
    __tablename__ = "with_default"
    metadata = SQLModel.metadata.__class__()
    key: str = Field(sa_column=Column(Text, primary_key=True))
    count: int = 0


def test_an_insert_without_a_column_that_has_a_python_default_is_an_error() -> None:
    with pytest.raises(TypeError, match="with_default"):
        statement(insert(_WithDefault).values(parameters("key")))
    assert statement(insert(_WithDefault).values(parameters("key", "count"))).names == {"key", "count"}


def test_an_in_clause_is_an_error() -> None:
    with pytest.raises(TypeError, match="one_of"):
        statement(select(col(User.user_id)).where(col(User.user_id).in_(["u-1"])))


def test_a_statement_shows_its_text() -> None:
    assert isinstance(_INSERT_KEY, Statement)
    assert repr(_INSERT_KEY).startswith("Statement('INSERT INTO data_keys")
