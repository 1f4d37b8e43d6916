"""Errors in mapping files, and missing columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clients.importer.mapping import ImportMapping, load_mapping
from clients.importer.options import ImportStoppedError

GOOD = 'kind = "profiles"\n[fields]\nuser_id = "{id}"\n'


@pytest.fixture
def load(write: Callable[..., Path]) -> Callable[[str], ImportMapping]:
    return lambda text: load_mapping(write("m.toml", text))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kind = ", "isn't valid TOML"),
        ('kind = "events"\n[fields]\nuser_id = "{id}"', "[fields] must define 'event_id'"),
        ("historical = true\n" + GOOD, "line 1: 'historical' must be true or false, and applies to events only"),
        ('name = ""\n' + GOOD, "line 1: 'name' must be a text"),
        (GOOD + "[consents]\nspying = {}", "line 5: 'spying' is no purpose of a consent; there are data_coll"),
        (GOOD + "[consents]\nprofiling = true", "line 5: 'profiling' must be a table of texts"),
        (GOOD + "[consents]\nprofiling = {}", "line 5: 'profiling' needs a 'source'"),
        (GOOD + '[consents]\nprofiling = { by = "x" }', "line 5: 'profiling' has the unknown option 'by'"),
        (
            GOOD + '[consents]\nprofiling = { source = "x", if_recorded = "grant" }',
            "line 5: 'profiling' has an unknown 'if_recorded'; there are keep, replace",
        ),
        (GOOD + 'name = { from = "{a}", if_recorded = "keep" }', "has 'if_recorded', which is for consents"),
        (GOOD + 'consents.profiling = { from = "{a}", if_recorded = "no" }', "unknown 'if_recorded'; there are"),
        ("consents = 1\n" + GOOD, "line 1: 'consents' must be a table"),
        (GOOD + 'price = { from = "{a}", type = "decimal", default = "ten" }', "line 4: 'price' Write an amount"),
        ('[fields]\nuser_id = "{id}"', "'kind' must be \"profiles\""),
        ('kind = "visits"\n[fields]\nuser_id = "{id}"', 'line 1: \'kind\' must be "profiles" or "events"'),
        ('kind = "profiles"', "the table [fields]"),
        ('kind = "profiles"\n[fields]\nemail = "{email}"', "must define 'user_id'"),
        ('kinds = "profiles"', "line 1: 'kinds' is unknown here"),
        ('key = "id"\n' + GOOD, "line 1: 'key' must be the name of one of the fields"),
        ('delimiter = "::"\n' + GOOD, "line 1: 'delimiter' must be a single character"),
        (GOOD + 'email = "{email"', "line 4: 'email' has a '{' without the matching brace"),
        (GOOD + "email = []", "line 4: 'email' must be a template"),
        (GOOD + 'email = { type = "string" }', "needs 'from'"),
        (GOOD + 'email = { from = "{a}", typ = "string" }', "unknown option 'typ'"),
        (GOOD + 'age = { from = "{a}", type = "int" }', "line 4: 'age' has an unknown 'type'; there are string"),
        (GOOD + 'age = { from = "{a}", pick = "sum" }', "has an unknown 'pick'"),
        (GOOD + 'age = { from = "{a}", type = "integer", shift = true }', "has 'shift', which is for"),
        (GOOD + 'age = { from = "{a}", shift = "yes" }', "has a 'shift' of the wrong type"),
        (GOOD + 'age = { from = "{a}", type = "integer", default = "old" }', "Write a whole number"),
        (GOOD + 'sex = { from = "{a}", map = { m = 1 } }', "isn't a table of strings"),
        (GOOD + '"a..b" = "{a}"', "has an empty part in its name"),
        (GOOD + 'a = "{a}"\n"a.b" = "{b}"', "line 5: 'a.b' is set twice"),
        (GOOD + '"a.b" = "{b}"\na = "{a}"', "line 5: 'a' is set twice"),
    ],
)
def test_a_bad_mapping_stops_with_one_sentence_that_names_the_line(
    load: Callable[[str], ImportMapping], text: str, sentence: str
) -> None:
    with pytest.raises(ImportStoppedError) as stopped:
        load(text)
    assert sentence in str(stopped.value)
    assert "m.toml" in str(stopped.value)
    assert "\n" not in str(stopped.value)


def test_a_missing_column_is_named_with_its_line_and_a_similar_column(
    load: Callable[[str], ImportMapping],
) -> None:
    mapping = load(GOOD + 'email = "{emial}"\n')
    with pytest.raises(
        ImportStoppedError, match=r"line 4: 'email' uses the column 'emial'.*did you mean 'email'\?$"
    ):
        mapping.check_columns(["id", "email"])


def test_a_missing_column_without_a_similar_one_lists_all_columns(
    load: Callable[[str], ImportMapping],
) -> None:
    with pytest.raises(ImportStoppedError, match="it has: number, mail"):
        load(GOOD).check_columns(["number", "mail"])


def test_line_and_mapping_are_no_columns_of_the_file(load: Callable[[str], ImportMapping]) -> None:
    text = GOOD + 'email = "{mapping}-{line}@example.com"\n'
    load('name = "shop"\n' + text).check_columns(["id"])
    load(text).check_columns(["id", "mapping"])
    with pytest.raises(ImportStoppedError, match=r"line 4: 'email' uses \{mapping\}: give the mapping a 'name'"):
        load(text).check_columns(["id"])


def test_a_missing_mapping_stops_with_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ImportStoppedError, match="can't be read: No such file"):
        load_mapping(tmp_path / "none.toml")


def test_a_nested_table_means_the_same_as_a_dotted_name(load: Callable[[str], ImportMapping]) -> None:
    texts = (
        '"demographics.country" = "{country}"',
        'demographics.country = "{country}"',
        '[fields.demographics]\ncountry = "{country}"',
    )
    assert {load(GOOD + text).fields[1].path for text in texts} == {("demographics", "country")}


def test_constants_keep_their_types(load: Callable[[str], ImportMapping]) -> None:
    mapping = load(GOOD + '"consents.marketing" = true\nage = 34\n')
    assert [rule.default for rule in mapping.fields] == [None, True, 34]
