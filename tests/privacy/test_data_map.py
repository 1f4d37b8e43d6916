"""The data map: that it is the tables', and that nothing can be left out of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Column, Text
from sqlmodel import Field, SQLModel

from models import data_map
from models.data_map import UndeclaredError, exported, page
from models.personal import personal_columns
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
    columns = exported()
    for table in TABLES:
        if table.__tablename__ in columns:
            assert set(personal_columns(table)) <= set(columns[str(table.__tablename__)])
    assert "wrapped" not in str(columns)
    assert "email_index" not in str(columns)


def test_a_table_of_which_nobody_says_how_long_it_is_kept_is_refused(
    scratch_table: type[SQLModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_map, "TABLES", (*TABLES, scratch_table))
    with pytest.raises(UndeclaredError, match=r"'scratch' is new: .*\(KEPT_AS\)"):
        page()


def test_a_text_in_the_clear_of_which_nobody_says_what_it_holds_is_refused(
    scratch_table: type[SQLModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_map, "TABLES", (*TABLES, scratch_table))
    monkeypatch.setattr(data_map, "KEPT_AS", {**data_map.KEPT_AS, "scratch": "profiles"})
    with pytest.raises(UndeclaredError, match=r"scratch\.remark .*personal\(\)"):
        page()


def test_nothing_is_said_of_what_is_not_there() -> None:
    tables = {str(table.__tablename__): table.__table__.columns.keys() for table in TABLES}  # type: ignore[attr-defined]
    assert set(data_map.KEPT_AS) == set(tables)
    for place in data_map.IN_THE_CLEAR:
        table, column = place.split(".")
        assert column in tables[table], place
