"""Changes of a profile give the same profile in any order of arrival and in any batches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.rules.profile import DEMOGRAPHICS, Profile, change
from models.rules.profile_changes import (
    CREATED as CREATION,
)
from models.rules.profile_changes import (
    ProfileChange,
    by_attribute,
    change_of,
    errors,
    micros,
    resolve,
    restricts,
    values_of,
)
from models.vocabulary import AccountStatus, LifecycleStage

CREATED = datetime(2026, 3, 1, tzinfo=UTC)
PERSON = Profile(
    user_id="u-1",
    email="ada@example.com",
    name="Ada",
    signup_date=CREATED,
    account_status=AccountStatus.ACTIVE,
    lifecycle_stage=LifecycleStage.ACTIVE,
    demographics={"city": "Berlin"},
    consents={"data_collection": True},
)
VALUES = st.sampled_from(["a", "b", "c"])
PATCHES = st.fixed_dictionaries(
    {},
    optional={
        "name": VALUES,
        "account_status": st.sampled_from(list(AccountStatus)),
        "lifecycle_stage_pinned": st.booleans() | st.none(),
        "demographics": st.none() | st.dictionaries(st.sampled_from(DEMOGRAPHICS[:4]), VALUES | st.none()),
        # An attribute that is allowed again depends on what arrived meanwhile: that was never stored.
        "privacy_preferences": st.dictionaries(st.sampled_from(DEMOGRAPHICS[:2]), st.just(False)),
        "transactions": st.none() | st.fixed_dictionaries({}, optional={"subscription_tier": VALUES | st.none()}),
    },
)
# Few times, before and after the profile's creation, so that many are equal.
CHANGES = st.builds(
    lambda patch, hours, historical: ProfileChange(
        micros(CREATED + timedelta(hours=hours)), by_attribute(patch), historical
    ),
    PATCHES,
    st.integers(-2, 3),
    st.booleans(),
)


def applied(*batches: list[ProfileChange], profile: Profile = PERSON) -> Profile:
    times = {CREATION: micros(CREATED)}
    for batch in batches:
        patch, new = resolve(profile, times, batch)
        profile, times = change(profile, patch), times | new
    return profile


@given(st.lists(CHANGES, max_size=6), st.data())
def test_neither_order_nor_batches_matter(changes: list[ProfileChange], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(changes))
    cut = data.draw(st.integers(0, len(changes)))
    at_once = applied(changes)
    assert applied(*([each] for each in changes)) == at_once
    assert applied(*([each] for each in shuffled)) == at_once
    assert applied(shuffled[:cut], shuffled[cut:]) == at_once


@given(st.lists(CHANGES, max_size=6))
def test_of_the_changes_of_an_attribute_the_latest_wins(changes: list[ProfileChange]) -> None:
    """Against a plain scan: old data, then the value of the creation, then all other changes."""
    after = values_of(applied(changes))
    for name in ("name", "account_status", "transactions.subscription_tier"):
        created = values_of(PERSON).get(name)
        known = [(1, 0, True, str(created))] if created is not None else []
        for each in changes:
            if name in each.values:
                value, old = each.values[name], each.historical and each.at <= micros(CREATED)
                known.append((0 if old else 2, each.at, value is not None, str(value)))
        *_, there, latest = max(known, default=(0, 0, False, ""))
        if name == "account_status" and "closed" in {value for *_, value in known}:
            latest = "closed"
        assert (str(after[name]) if name in after else None) == (latest if there else None)


def test_a_value_that_is_sent_again_counts_from_then_on() -> None:
    def city(name: str, hours: int) -> ProfileChange:
        return ProfileChange(micros(CREATED + timedelta(hours=hours)), {"demographics.city": name})

    assert applied([city("Rome", 1)], [city("Rome", 5)], [city("Bonn", 3)]).demographics["city"] == "Rome"


def test_old_data_from_before_the_profile_completes_it_and_replaces_nothing() -> None:
    values = {"demographics.gender": "f", "demographics.city": "Bonn"}
    early = micros(CREATED - timedelta(days=9))
    assert applied([ProfileChange(early, values, True)]).demographics == {"city": "Berlin", "gender": "f"}
    assert applied([ProfileChange(early, values, False)]).demographics == {"city": "Bonn", "gender": "f"}


def test_without_consent_demographics_are_removed_and_not_set() -> None:
    profile = applied(
        [ProfileChange(micros(CREATED) + 1, {"demographics.city": "Bonn", "name": "Grace"})],
        [ProfileChange(micros(CREATED) + 2, {"demographics.gender": "f"})],
        profile=Profile(**{**vars(PERSON), "consents": {"data_collection": False}}),
    )
    assert (profile.name, profile.demographics) == ("Grace", {"city": "Berlin"})
    removed = ProfileChange(micros(CREATED) + 3, {"demographics.city": None})
    assert applied([removed], profile=profile).demographics == {}


def test_a_change_counts_at_its_timestamp_and_not_after_its_receipt() -> None:
    changes = {"changes": {"name": "Ada"}}
    hour = timedelta(hours=1)
    for timestamp, at in ((CREATED - hour, CREATED - hour), (CREATED + hour, CREATED)):
        found = change_of(changes, timestamp, CREATED, historical=False)
        assert found is not None
        assert found.at == micros(at)


@pytest.mark.parametrize("properties", [{}, {"changes": {}}, {"changes": {"theme": "dark"}}, {"changes": [1]}])
def test_an_event_without_valid_changes_is_only_an_event(properties: dict[str, Any]) -> None:
    assert change_of(properties, CREATED, CREATED, historical=False) is None


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"name": "Ada"}, False),
        ({"privacy_preferences": {"city": True}}, False),
        ({"privacy_preferences": {"city": False}}, True),
        ({"account_status": "closed"}, True),
        ({"account_status": "suspended"}, True),
        ({"account_status": "active"}, False),
    ],
)
def test_a_change_that_forbids_something_is_known_before_the_locks(changes: dict[str, Any], wanted: bool) -> None:
    assert errors({"changes": changes}) == []
    found = change_of({"changes": changes}, CREATED, CREATED, historical=False)
    assert found is not None
    assert restricts(found) is wanted
