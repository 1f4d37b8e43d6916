"""Masking of JSON documents: parameters, variables and results for roles that may not see personal data."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.personal import Mask
from models.tables.execution import Attempt, Instance, Message, Step
from models.tables.projections import Transaction
from models.vocabulary import Role
from privacy.masking import mask, mask_texts, schema_choices, value_for

SHOWN = {
    "message_id": "0" * 32,
    "status": "withdrawn",
    "first_activity_within": "PT1H30M",
    "event_id": "e-1",
    "event_type": "engagement.page_view",
    "until": "2026-03-14T12:00:00Z",
    "called_at": "2026-03-14T12:00:00.123456+02:00",
    "count": 3,
    "nudged": True,
    "nothing": None,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_ids_durations_times_and_known_words_stay_readable() -> None:
    assert mask(Mask.TEXTS, SHOWN) == SHOWN


@pytest.mark.parametrize(
    ("hidden", "seen"),
    [
        ("Ada", "***"),
        ({"note": "Ada", "n": 1}, {"note": "***", "n": 1}),
        ([["Ada"], 2.5], [["***"], 2.5]),
        ({"ada@example.com": "x"}, {"***": "***"}),
        ({"event_type": "Ada Lovelace"}, {"event_type": "***"}),
        ({"event_id": {"name": "Ada"}}, {"event_id": {"name": "***"}}),
        ("Active", "***"),
        (
            {"call": 491715550123, "card": -4111111111111111.0, "n": 9999999},
            {"call": "***", "card": "***", "n": 9999999},
        ),
        ({"born": "1971-03-07T00:00:00Z", "seen_at": "Ada's"}, {"born": "***", "seen_at": "***"}),
        ("P1D for Ada", "***"),
    ],
)
def test_every_other_text_is_masked(hidden: Any, seen: Any) -> None:
    assert mask(Mask.TEXTS, hidden) == seen


@given(JSON)
def test_masking_a_masked_document_changes_nothing(document: Any) -> None:
    once = mask_texts(document)
    assert mask_texts(once) == once


def test_choices_of_a_schema_stay_readable() -> None:
    schema = {"properties": {"plan": {"enum": ["gold", 1]}, "kind": {"anyOf": [{"const": "late"}, {}]}}}
    assert schema_choices(schema) == {"gold", "late"}
    document = {"plan": "gold", "kind": "late", "note": "golden"}
    seen = value_for(Role.ANALYST, Instance, "parameters", document, known=schema_choices(schema))
    assert seen == {"plan": "gold", "kind": "late", "note": "***"}


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ANALYST, Role.INTEGRATOR])
def test_each_column_is_masked_by_its_declaration(role: Role) -> None:
    assert value_for(role, Instance, "error", "450 ada@example.com is away") == "***"
    assert value_for(role, Attempt, "error_message", None) is None
    assert value_for(role, Step, "result", {"note": "Ada"}) == {"note": "***"}
    assert value_for(role, Message, "recipient", "ada@example.com") == "a**@e******.com"
    assert value_for(role, Transaction, "order_id", "o-1") == "o-1"
    assert value_for(Role.ADMIN, Instance, "error", "as it is") == "as it is"
