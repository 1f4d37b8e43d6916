"""Templates of a mapping."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.importer.templates import InvalidTemplateError, Template

NAMES = st.text(min_size=1, max_size=12).map(str.strip).filter(lambda s: s and not set(s) & set("{}?"))
WORDS = st.text(min_size=1, max_size=20).map(str.strip).filter(bool)


def render(text: str, **columns: str) -> str | None:
    return Template.parse(text).render(lambda column: columns.get(column, ""))


def test_columns_are_filled_in() -> None:
    assert render("cdnow-{id}@{host}", id="00004", host="example.com") == "cdnow-00004@example.com"


def test_an_empty_column_leaves_the_attribute_out() -> None:
    assert render("customer{id}@example.com", id="") is None
    assert render("customer{id}@example.com", id="  ") is None


def test_a_column_marked_optional_may_be_empty() -> None:
    assert render("{first?} {last}", first="", last="Lovelace") == "Lovelace"
    assert render("{first?} {last?}", first="", last="") is None


def test_doubled_braces_are_braces() -> None:
    assert render("{{{id}}} {{id}}", id="7") == "{7} {id}"


@pytest.mark.parametrize("text", ["{id", "id}", "{a{b}}", "{}", "{ }", "{?}"])
def test_an_unbalanced_or_empty_reference_is_rejected(text: str) -> None:
    with pytest.raises(InvalidTemplateError):
        Template.parse(text)


@given(st.text())
def test_escaped_text_stands_for_itself(text: str) -> None:
    template = Template.parse(text.replace("{", "{{").replace("}", "}}"))
    assert template.columns == ()
    assert template.render(lambda column: "") == (text.strip() or None)


@given(NAMES, WORDS)
def test_a_single_reference_gives_the_columns_text(name: str, value: str) -> None:
    template = Template.parse("{" + name + "}")
    assert template.columns == (name,)
    assert template.render({name: value}.__getitem__) == value


@given(st.lists(st.tuples(NAMES, WORDS), min_size=1, max_size=5, unique_by=lambda pair: pair[0]))
def test_columns_values_are_never_read_as_templates(pairs: list[tuple[str, str]]) -> None:
    template = Template.parse("|".join("{" + name + "}" for name, _ in pairs))
    assert template.render(dict(pairs).__getitem__) == "|".join(value for _, value in pairs)


@given(st.text(alphabet="{}a? ", max_size=12))
def test_any_text_is_a_template_or_rejected(text: str) -> None:
    try:
        template = Template.parse(text)
    except InvalidTemplateError:
        return
    template.render(lambda column: "x")
