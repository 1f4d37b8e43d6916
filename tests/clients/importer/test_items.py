"""Items from rows: types, grouping, shifts, and problems by row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.importer.items import Assembler, Item, UnusableRows
from clients.importer.mapping import load_mapping
from clients.importer.sources import Row
from clients.importer.values import InvalidValueError, ValueType, convert

Write = Callable[..., Path]
Make = Callable[..., tuple[list[dict[str, Any]], dict[int, list[str]]]]


@pytest.fixture
def make(write: Write) -> Make:
    """Items of rows under a mapping, and "pointer code" of the rejected lines."""

    def make(
        fields: str, *rows: dict[str, Any], key: bool = True, shift_days: int = 0
    ) -> tuple[list[dict[str, Any]], dict[int, list[str]]]:
        head = 'kind = "profiles"\n' + ('key = "user_id"\n' if key else "")
        mapping = load_mapping(write("m.toml", f'{head}[fields]\nuser_id = "{{id}}"\n{fields}\n'))
        numbered = [Row(line, row, None, ()) for line, row in enumerate(rows, 2)]
        items, refused = [], {}
        for made in Assembler(mapping, shift_days).items(numbered):
            if isinstance(made, Item):
                items.append(json.loads(made.body))
            else:
                assert isinstance(made, UnusableRows)
                for line, problems in made.problems.items():
                    refused[line] = [f"{problem.pointer} {problem.code}" for problem in problems]
        return items, refused

    return make


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        ("string", " 0042 ", "0042"),
        ("integer", "42", 42),
        ("number", "29.33", 29.33),
        ("decimal", "29.30", "29.30"),
        ("decimal", "0", "0"),
        ("boolean", "Yes", True),
        ("boolean", "0", False),
        ("timestamp", "1997-01-01T02:00:00+02:00", "1997-01-01T00:00:00Z"),
        ("date", "1997-01-01", "1997-01-01"),
    ],
)
def test_columns_become_typed_values(make: Make, type_: str, text: str, value: object) -> None:
    items, _ = make(f'"a.b" = {{ from = "{{x}}", type = "{type_}" }}', {"id": "1", "x": text})
    assert items == [{"user_id": "1", "a": {"b": value}}]


@pytest.mark.parametrize(
    ("type_", "text", "code"),
    [
        ("integer", "4.2", "not_an_integer"),
        ("integer", "9" * 30, "not_an_integer"),
        ("number", "nan", "not_a_number"),
        ("number", "ten", "not_a_number"),
        ("decimal", "1e3", "not_a_decimal"),
        ("decimal", "1,000.00", "not_a_decimal"),
        ("decimal", "nan", "not_a_decimal"),
        ("boolean", "perhaps", "not_a_boolean"),
        ("timestamp", "1997-01-01T00:00:00", "not_a_timestamp"),
        ("timestamp", "0001-01-01T00:00:00Z", "not_a_timestamp"),
        ("date", "01/02/1997", "not_a_date"),
    ],
)
def test_a_text_of_another_type_rejects_its_row(make: Make, type_: str, text: str, code: str) -> None:
    rows = ({"id": "1", "x": text}, {"id": "2", "x": ""})
    items, refused = make(f'"a.b" = {{ from = "{{x}}", type = "{type_}" }}', *rows)
    assert items == [{"user_id": "2"}]
    assert refused == {2: [f"/a/b {code}"]}


def test_dates_in_another_format_are_read(make: Make) -> None:
    fields = (
        'day = { from = "{d}", type = "date", format = "%d/%m/%Y" }\n'
        'at = { from = "{d}", type = "timestamp", format = "%d/%m/%Y" }'
    )
    items, refused = make(fields, {"id": "1", "d": "02/01/1997"}, {"id": "2", "d": "1997"})
    assert items == [{"user_id": "1", "day": "1997-01-02", "at": "1997-01-02T00:00:00Z"}]
    assert refused == {3: ["/day not_a_date", "/at not_a_timestamp"]}


@pytest.mark.parametrize(("pick", "value"), [("first", "b"), ("last", "a"), ("min", "a"), ("max", "c")])
def test_pick_selects_one_of_the_rows_values(make: Make, pick: str, value: str) -> None:
    rows = [{"id": "1", "x": x} for x in ("", "b", "c", "", "a", "")]
    assert make(f'x = {{ from = "{{x}}", pick = "{pick}" }}', *rows)[0] == [{"user_id": "1", "x": value}]


def test_integers_are_compared_as_numbers(make: Make) -> None:
    rows = [{"id": "1", "x": x} for x in ("9", "10")]
    items, _ = make('x = { from = "{x}", type = "integer", pick = "max" }', *rows)
    assert items == [{"user_id": "1", "x": 10}]


def test_decimals_are_compared_as_numbers_and_keep_their_digits(make: Make) -> None:
    rows = [{"id": "1", "x": x} for x in ("9.10", "10.00")]
    assert make('x = { from = "{x}", type = "decimal", pick = "max" }', *rows)[0] == [
        {"user_id": "1", "x": "10.00"}
    ]


def test_a_template_may_refer_to_the_rows_line_unless_the_file_has_such_a_column(make: Make) -> None:
    items, _ = make('x = "{line}"', {"id": "1"}, {"id": "2", "line": "77"}, {"id": "3"}, key=False)
    assert [item["x"] for item in items] == ["2", "77", "4"]


def test_without_a_key_every_row_is_an_item(make: Make) -> None:
    items, _ = make("", {"id": "1"}, {"id": "1"}, key=False)
    assert items == [{"user_id": "1"}, {"user_id": "1"}]


def test_times_with_shift_are_moved(make: Make) -> None:
    fields = """
a = { from = "{d}T00:00:00Z", shift = true }
b = { from = "{d}", type = "date", shift = true }
c = "{d}"
"""
    items, _ = make(fields, {"id": "1", "d": "1999-12-31"}, shift_days=1)
    assert items == [{"user_id": "1", "a": "2000-01-01T00:00:00Z", "b": "2000-01-01", "c": "1999-12-31"}]


def test_a_shift_past_the_year_9999_rejects_the_row(make: Make) -> None:
    _, refused = make(
        'a = { from = "{d}", type = "date", shift = true }', {"id": "1", "d": "9999-12-31"}, shift_days=1
    )
    assert refused == {2: ["/a out_of_range"]}


def test_values_are_replaced_by_a_map_and_defaults_fill_what_is_empty(make: Make) -> None:
    fields = 'g = { from = "{g}", map = { M = "male" } }\nc = { from = "{c}", default = "DE" }'
    rows = ({"id": "1", "g": "M", "c": ""}, {"id": "2", "g": "X", "c": "FR"}, {"id": "3", "c": "FR"})
    items, refused = make(fields, *rows)
    assert items == [{"user_id": "1", "g": "male", "c": "DE"}, {"user_id": "3", "c": "FR"}]
    assert refused == {3: ["/g not_in_map"]}


def test_a_default_does_not_replace_the_value_of_another_row(make: Make) -> None:
    rows = ({"id": "1", "c": "FR"}, {"id": "1", "c": ""})
    assert make('c = { from = "{c}", default = "DE" }', *rows)[0] == [{"user_id": "1", "c": "FR"}]


def test_a_required_attribute_without_a_value_rejects_the_profile(make: Make) -> None:
    fields = 'email = { from = "{e}", required = true }'
    rows = ({"id": "1", "e": ""}, {"id": "1", "e": "a@example.com"}, {"id": "2", "e": ""}, {"id": ""})
    items, refused = make(fields, *rows)
    assert items == [{"user_id": "1", "email": "a@example.com"}]
    assert refused == {4: ["/email required"], 5: ["/user_id required"]}


def test_a_bad_row_rejects_all_rows_of_its_profile(make: Make) -> None:
    rows = ({"id": "1", "x": "1"}, {"id": "2", "x": "2"}, {"id": "1", "x": "no"})
    items, refused = make('x = { from = "{x}", type = "integer" }', *rows)
    assert items == [{"user_id": "2", "x": 2}]
    assert refused == {2: [" item_rejected"], 4: ["/x not_an_integer"]}


def test_an_object_instead_of_a_text_rejects_the_row(make: Make) -> None:
    assert make('x = "{x}"', {"id": "1", "x": {"y": "1"}})[1] == {2: ["/x not_a_value"]}


def test_a_lone_surrogate_rejects_the_row(make: Make) -> None:
    assert make('x = "{x}"', {"id": "1", "x": "\ud800"})[1] == {2: [" invalid_utf8"]}


@given(st.text().map("§{}".format), st.sampled_from(ValueType))
def test_any_text_is_converted_or_rejected_without_being_repeated(text: str, kind: ValueType) -> None:
    said = ""
    try:
        convert(text, kind)
    except InvalidValueError as error:
        said = error.message
    assert text not in said
