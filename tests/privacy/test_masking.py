"""Masks of single values and of profiles."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.masking import USER_MASKS, masked_profile
from models.personal import Mask, personal_columns
from models.schemas.users import Demographics, UserProfile
from models.tables.people import User
from privacy.masking import HIDDEN, mask, mask_texts

WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=2, max_size=12)


@pytest.mark.parametrize(
    ("kind", "value", "masked"),
    [
        (Mask.EMAIL, "ada@example.com", "a**@e******.com"),
        (Mask.EMAIL, "a@b.example.com", "*@b********.com"),
        (Mask.WORDS, "Ada Lovelace", "A** L*******"),
        (Mask.WORDS, "X", "*"),
        (Mask.DATE, "1992-01-01", "****-**-**"),
        (Mask.ALL, {"any": "thing"}, HIDDEN),
        (Mask.ALL, 34, HIDDEN),
    ],
)
def test_masks_have_these_forms(kind: Mask, value: Any, masked: str) -> None:
    assert mask(kind, value) == masked


@pytest.mark.parametrize(
    "value", [0, 9_999_999, -9_999_999, 9_999_999.99, True, False, {"n": 9_999_999}, [9_999_999]]
)
def test_numbers_of_up_to_seven_digits_and_truths_are_shown(value: Any) -> None:
    assert mask(Mask.TEXTS, value) == value


@pytest.mark.parametrize("value", [10_000_000, -10_000_000, 10_000_000.0, 1e300, 4111_1111_1111_1111])
def test_numbers_from_ten_million_are_hidden(value: float) -> None:
    assert mask(Mask.TEXTS, value) == HIDDEN
    assert mask(Mask.TEXTS, {"phone": [value]}) == {"phone": [HIDDEN]}


@pytest.mark.parametrize("kind", list(Mask))
def test_none_is_not_masked(kind: Mask) -> None:
    assert mask(kind, None) is None


@given(st.lists(WORDS, min_size=1, max_size=5))
def test_of_a_word_only_its_first_character_and_length_are_left(words: list[str]) -> None:
    masked = mask(Mask.WORDS, " ".join(words)).split()
    assert len(masked) == len(words)
    for word, seen in zip(words, masked, strict=True):
        assert seen == word[0] + "*" * (len(word) - 1)


@given(WORDS, WORDS, st.sampled_from(["com", "example.org", "de"]))
def test_of_an_address_neither_name_nor_domain_is_left(local: str, domain: str, top: str) -> None:
    name, _, host = mask(Mask.EMAIL, f"{local}@{domain}.{top}").partition("@")
    assert name == local[0] + "*" * (len(local) - 1)
    assert host.startswith(domain[0] + "*")
    assert host[1:].strip("*") == "." + top.rpartition(".")[2]


def test_every_masked_column_is_an_attribute_of_the_profile() -> None:
    """The API masks profiles by the names of the declared columns, so none is left out."""
    attributes = set(UserProfile.model_fields) | set(Demographics.model_fields)
    assert set(USER_MASKS) <= attributes
    assert {"email", "name", "date_of_birth", "city"} <= set(USER_MASKS)
    assert set(USER_MASKS) == set(personal_columns(User))


@given(st.data())
def test_no_masked_attribute_of_any_profile_shows(data: st.DataObject) -> None:
    values = {name: data.draw(WORDS.map(lambda word: f"Zz{word}"), label=name) for name in USER_MASKS}
    top = {name: value for name, value in values.items() if name in UserProfile.model_fields}
    document = {**top, "demographics": {k: v for k, v in values.items() if k not in top}, "country": "DE"}
    seen = str(masked_profile(document))
    assert not any(value in seen for value in values.values())
    assert "DE" in seen


def test_values_that_are_not_personal_stay() -> None:
    document = {"user_id": "u-1", "demographics": {"country": "DE"}, "consents": {"marketing": True}}
    assert masked_profile(document) == document


@pytest.mark.parametrize(
    ("number", "shown"), [(9_999_999, 9_999_999), (10_000_000, HIDDEN), (-10_000_000, HIDDEN), (1e7, HIDDEN)]
)
def test_numbers_of_eight_digits_are_hidden(number: float, shown: object) -> None:
    assert mask_texts({"value": number}) == {"value": shown}


def test_known_texts_stay_inside_lists_too() -> None:
    assert mask_texts([["gold", "Ada"]], frozenset({"gold"})) == [["gold", HIDDEN]]


def test_the_domain_of_an_address_begins_after_the_last_at_sign() -> None:
    assert mask(Mask.EMAIL, '"a@b"@example.com') == '"****@e******.com'
