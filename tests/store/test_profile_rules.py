"""The rules by which any patch changes any profile."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConsentRequiredError
from models.rules.profile import CORE, DEMOGRAPHICS, Profile, age_on, change, create, missing_core
from models.vocabulary import AccountStatus, LifecycleStage, Purpose

VALUES = st.sampled_from(["a", "b", "c"])
PREFERENCES = st.dictionaries(st.sampled_from(DEMOGRAPHICS), st.booleans() | st.none())
CONSENTS = st.dictionaries(st.sampled_from(list(Purpose)).map(str), st.booleans() | st.none())
PATCHES = st.fixed_dictionaries(
    {},
    optional={
        "email": VALUES,
        "name": VALUES,
        "lifecycle_stage": st.sampled_from(list(LifecycleStage)),
        "lifecycle_stage_pinned": st.booleans() | st.none(),
        "demographics": st.none() | st.dictionaries(st.sampled_from(DEMOGRAPHICS), VALUES | st.none()),
        "privacy_preferences": st.none() | PREFERENCES,
        "consents": st.none() | CONSENTS,
        "transactions": st.none() | st.fixed_dictionaries({}, optional={"subscription_tier": VALUES | st.none()}),
    },
)


def core(**changes: Any) -> dict[str, Any]:
    """A document with the core attributes, as the API schema dumps it."""
    return {
        "user_id": "u-1",
        "email": "a",
        "name": "a",
        "signup_date": datetime(2026, 1, 5, tzinfo=UTC),
        "account_status": AccountStatus.ACTIVE,
        "lifecycle_stage": LifecycleStage.ACTIVE,
        **changes,
    }


def after(profile: Profile, *patches: dict[str, Any]) -> Profile:
    """A profile after patches; a patch that lacks consent changes nothing."""
    for patch in patches:
        try:
            profile = change(profile, patch)
        except ConsentRequiredError:
            continue
    return profile


def reference(target: Any, patch: Any) -> Any:
    """The algorithm of RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = reference(result.get(name), value)
    return result


def as_document(profile: Profile) -> dict[str, Any]:
    """The API document of a profile without absent attributes and consents."""
    whole: dict[str, Any] = {
        "user_id": profile.user_id,
        **{name: getattr(profile, name) for name in CORE},
        "lifecycle_stage_pinned": profile.lifecycle_stage_pinned or None,
        "demographics": dict(profile.demographics),
        "privacy_preferences": dict(profile.privacy_preferences),
        "transactions": {"subscription_tier": profile.subscription_tier} if profile.subscription_tier else None,
    }
    return {name: value for name, value in whole.items() if value not in ({}, None)}


CONSENTING = create(core(consents={"data_collection": True}))


@given(st.lists(PATCHES, max_size=4), PATCHES)
def test_a_patch_is_a_json_merge_and_then_applies_the_preferences(
    before: list[dict[str, Any]], patch: dict[str, Any]
) -> None:
    profile = after(CONSENTING, *before)
    try:
        changed = change(profile, patch)
    except ConsentRequiredError:
        return
    document = reference(as_document(profile), {k: v for k, v in patch.items() if k != "consents"})
    forbidden = [name for name, kept in document.get("privacy_preferences", {}).items() if not kept]
    demographics = {k: v for k, v in document.get("demographics", {}).items() if k not in forbidden}
    expected = document | {"demographics": demographics}
    assert as_document(changed) == {k: v for k, v in expected.items() if v not in ({}, None, False)}


@given(st.lists(PATCHES, max_size=4), PATCHES)
def test_a_patch_twice_is_a_patch_once(before: list[dict[str, Any]], patch: dict[str, Any]) -> None:
    once = after(after(CONSENTING, *before), patch)
    assert after(once, patch) == once


@given(st.lists(PATCHES, max_size=6))
def test_no_attribute_is_stored_against_a_preference(patches: list[dict[str, Any]]) -> None:
    profile = after(CONSENTING, *patches)
    assert not {name for name, kept in profile.privacy_preferences.items() if not kept} & set(profile.demographics)
    assert None not in profile.demographics.values()


@given(st.lists(PATCHES, max_size=4), PATCHES)
def test_no_attribute_is_added_without_consent(before: list[dict[str, Any]], patch: dict[str, Any]) -> None:
    profile = after(CONSENTING, *before)
    try:
        changed = change(profile, patch)
    except ConsentRequiredError:
        return
    if not changed.consents_to(Purpose.DATA_COLLECTION):
        assert changed.demographics.items() <= profile.demographics.items()


@given(PATCHES)
def test_creating_a_profile_equals_changing_one_of_core_attributes(patch: dict[str, Any]) -> None:
    document = core() | patch
    try:
        created = create(document)
    except ConsentRequiredError:
        with pytest.raises(ConsentRequiredError):
            change(create(core()), patch)
    else:
        assert created == change(create(core()), patch)


@given(st.lists(PATCHES, max_size=6))
def test_a_consent_decision_is_never_removed(patches: list[dict[str, Any]]) -> None:
    profile = CONSENTING
    for patch in patches:
        changed = after(profile, patch)
        assert set(profile.consents) <= set(changed.consents)
        profile = changed


def test_removing_all_consents_withdraws_them() -> None:
    profile = change(CONSENTING, {"consents": {"marketing": True}})
    assert change(profile, {"consents": None}).consents == {"data_collection": False, "marketing": False}


def test_missing_core_attributes_are_named() -> None:
    errors = missing_core({"user_id": "u-1", "name": "a", "email": None})
    assert {error.pointer for error in errors} == {"/email", "/signup_date", "/account_status", "/lifecycle_stage"}


@pytest.mark.parametrize(
    ("today", "born", "age"),
    [
        ("2026-01-04", "1992-01-05", 33),
        ("2026-01-05", "1992-01-05", 34),
        ("2026-02-28", "2008-02-29", 17),  # someone born on a leap day isn't older before 1 March
        ("2026-03-01", "2008-02-29", 18),
        ("2028-02-28", "2008-02-29", 19),
        ("2028-02-29", "2008-02-29", 20),
        ("2026-01-05", "2026-01-05", 0),
    ],
)
def test_an_age_is_in_full_years(today: str, born: str, age: int) -> None:
    assert age_on(date.fromisoformat(today), date.fromisoformat(born)) == age


@pytest.mark.parametrize(
    ("demographics", "preferences", "shown"),
    [
        ({"age": 50, "date_of_birth": "1992-01-05"}, {}, 34),
        ({"date_of_birth": "1992-01-05"}, {"age": True}, 34),
        ({"age": 50}, {}, 50),
        ({"age": 50, "date_of_birth": "1992-01-05"}, {"age": False}, None),
        ({"age": 50, "date_of_birth": "1992-01-05"}, {"date_of_birth": False}, 50),
        ({"date_of_birth": "1992-01-05"}, {"age": False}, None),
    ],
)
def test_a_date_of_birth_gives_the_age_unless_the_person_opted_out_of_either(
    demographics: dict[str, Any], preferences: dict[str, bool], shown: int | None
) -> None:
    document = core(demographics=demographics, privacy_preferences=preferences, consents={"data_collection": True})
    assert create(document).shown_demographics(date(2026, 11, 30)).get("age") == shown
