"""The data map covers every table and column."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
from sqlalchemy import Column, Text
from sqlmodel import Field, SQLModel

from models import data_map
from models.data_map import UndeclaredError, exported_columns, page
from models.personal import ROW_COLUMNS, personal_columns
from models.tables.registry import TABLES


@pytest.fixture
def scratch_table() -> Iterator[type[SQLModel]]:
    class Scratch(SQLModel, table=True):
        __tablename__ = "scratch"

        user_id: str = Field(sa_column=Column(Text, primary_key=True))
        remark: str = Field(sa_column=Column(Text))

    yield Scratch
    SQLModel.metadata.remove(Scratch.__table__)  # type: ignore[attr-defined]
    SQLModel._sa_registry._dispose_cls(Scratch)


def test_every_table_and_column_is_on_the_page() -> None:
    text = page()
    for table in TABLES:
        assert f"\n## {table.__tablename__}\n" in text
        for column in table.__table__.columns:  # type: ignore[attr-defined]
            assert f"| `{column.name}` |" in text


def test_every_personal_column_of_a_person_is_exported_unless_its_table_is_internal() -> None:
    columns = exported_columns()
    for table in TABLES:
        if table.__tablename__ in columns:
            assert set(personal_columns(table)) <= set(columns[str(table.__tablename__)])
    assert "wrapped" not in str(columns)
    assert "email_index" not in str(columns)


def test_a_table_without_a_declared_retention_is_an_error(
    scratch_table: type[SQLModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_map, "TABLES", (*TABLES, scratch_table))
    with pytest.raises(UndeclaredError, match=r"'scratch' is new: .*\(RETENTION_TYPES\)"):
        page()


def test_an_unencrypted_text_without_a_description_is_an_error(
    scratch_table: type[SQLModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_map, "TABLES", (*TABLES, scratch_table))
    monkeypatch.setattr(data_map, "RETENTION_TYPES", {**data_map.RETENTION_TYPES, "scratch": "profiles"})
    with pytest.raises(UndeclaredError, match=r"scratch\.remark .*personal\(\)"):
        page()


def test_an_encrypted_table_without_a_declared_row_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(cast(dict[str, tuple[str, ...]], ROW_COLUMNS), "messages")
    with pytest.raises(UndeclaredError, match=r"'messages' is new: .*\(ROW_COLUMNS\)"):
        page()


def test_the_columns_of_a_declared_row_are_unique_for_a_person_and_never_encrypted() -> None:
    tables = {str(table.__tablename__): table for table in TABLES if personal_columns(table)}
    assert set(ROW_COLUMNS) == set(tables)
    for name, row in ROW_COLUMNS.items():
        table = tables[name].__table__  # type: ignore[attr-defined]
        keys = [{each.name for each in table.primary_key}]
        keys += [{each.name for each in index.columns} for index in table.indexes if index.unique]
        assert any(key <= {*row, "user_id"} for key in keys), name
        assert not {*row} & set(personal_columns(tables[name]))


def test_every_declaration_names_an_existing_column() -> None:
    tables = {str(table.__tablename__): table.__table__.columns.keys() for table in TABLES}  # type: ignore[attr-defined]
    assert set(data_map.RETENTION_TYPES) == set(tables)
    for place in data_map.PLAINTEXT_COLUMNS:
        table, column = place.split(".")
        assert column in tables[table], place
