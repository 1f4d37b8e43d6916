"""`/users`: the section on users of the contract, sentence by sentence."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from models.schemas.users import UserProfile
from tests.support.builders import BORN, EVERYTHING, collected, user
from tests.support.http import Clients, assert_problem, field_errors


async def test_an_admin_reads_a_created_profile_in_full(api: Clients) -> None:
    created = await api.admin.post("/users", json=EVERYTHING)
    assert created.status_code == 201
    assert created.headers["location"] == "/users/u-1"

    read = await api.admin.get("/users/u-1")
    assert read.status_code == 200
    assert read.json() == created.json()
    assert read.headers["etag"] == created.headers["etag"]
    profile = read.json()
    for name in ("user_id", "email", "name", "signup_date", "account_status", "lifecycle_stage", "demographics"):
        assert profile[name] == EVERYTHING[name]
    assert profile["consents"] == {
        "data_collection": True,
        "profiling": True,
        "marketing": False,
        "third_party_sharing": False,
    }
    assert profile["privacy_preferences"] == {"city": True}
    assert profile["lifecycle_stage_pinned"] is True


async def test_the_computed_groups_have_defaults_before_the_first_event(api: Clients) -> None:
    profile = (await api.admin.post("/users", json=EVERYTHING)).json()
    assert profile["behavior"] == {
        "session_count": 0,
        "last_session_date": None,
        "total_session_duration": 0.0,
        "feature_usage_map": {},
        "engagement_score": 0.0,
    }
    assert profile["transactions"] == {
        "total_purchases": 0,
        "total_revenue": "0.00",
        "average_order_value": None,
        "currency": None,
        "revenue_by_currency": {},
        "last_purchase_date": None,
        "subscription_tier": "pro",
        "customer_lifetime_value": None,
        "purchase_frequency": None,
    }


async def test_a_profile_of_core_attributes_alone_has_all_groups(api: Clients) -> None:
    profile = (await api.admin.post("/users", json=user())).json()
    assert set(profile) == set(UserProfile.model_fields)
    assert set(profile["demographics"].values()) == {None}
    assert set(profile["consents"].values()) == {False}
    assert profile["behavior"]["engagement_score"] is None
    assert profile["lifecycle_stage_pinned"] is False


async def test_times_are_answered_in_utc_whatever_their_offset(api: Clients) -> None:
    document = user(signup_date="2026-01-05T12:00:00.5+02:00")
    assert (await api.admin.post("/users", json=document)).json()["signup_date"] == "2026-01-05T10:00:00.500000Z"


@pytest.mark.parametrize("name", ["user_id", "email", "name", "signup_date", "account_status", "lifecycle_stage"])
async def test_every_core_attribute_is_required(api: Clients, name: str) -> None:
    document = user()
    del document[name]
    assert field_errors(await api.admin.post("/users", json=document)) == {(f"/{name}", "required")}
    assert field_errors(await api.admin.post("/users", json=user() | {name: None})) == {(f"/{name}", "required")}


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"user_id": "anonymous"}, "/user_id", "user_id_reserved"),
        ({"user_id": "NULL"}, "/user_id", "user_id_reserved"),
        ({"user_id": "0"}, "/user_id", "user_id_reserved"),
        ({"user_id": "ada@example.com"}, "/user_id", "user_id_is_personal"),
        ({"user_id": "ada lovelace"}, "/user_id", "invalid_user_id"),
        ({"user_id": ""}, "/user_id", "invalid_user_id"),
        ({"user_id": "x" * 129}, "/user_id", "invalid_user_id"),
        ({"user_id": "u-1\n"}, "/user_id", "invalid_user_id"),
        ({"user_id": "ü"}, "/user_id", "invalid_user_id"),
        ({"user_id": 5}, "/user_id", "invalid_type"),
        ({"email": "ada"}, "/email", "invalid_email"),
        ({"email": "ada@localhost"}, "/email", "invalid_email"),
        ({"email": "Ada <ada@example.com>"}, "/email", "invalid_email"),
        ({"email": "a" * 250 + "@example.com"}, "/email", "invalid_email"),
        ({"name": ""}, "/name", "blank"),
        ({"name": " \t"}, "/name", "blank"),
        ({"name": "x" * 301}, "/name", "too_long"),
        ({"name": "Ada\r\nBcc: all"}, "/name", "invalid_characters"),
        ({"signup_date": "2026-01-05"}, "/signup_date", "invalid_time"),
        ({"signup_date": "2026-01-05T10:00:00"}, "/signup_date", "invalid_time"),
        ({"signup_date": "2026-02-30T10:00:00Z"}, "/signup_date", "invalid_time"),
        ({"signup_date": "0001-01-01T00:00:00+23:00"}, "/signup_date", "invalid_time"),
        ({"signup_date": 1767607200}, "/signup_date", "invalid_type"),
        ({"account_status": "gone"}, "/account_status", "invalid_choice"),
        ({"lifecycle_stage": "Active"}, "/lifecycle_stage", "invalid_choice"),
        ({"lifecycle_stage_pinned": "yes"}, "/lifecycle_stage_pinned", "invalid_type"),
        ({"demographics": {"age": 151}}, "/demographics/age", "too_large"),
        ({"demographics": {"age": -1}}, "/demographics/age", "too_small"),
        ({"demographics": {"age": True}}, "/demographics/age", "invalid_type"),
        ({"demographics": {"age": "34"}}, "/demographics/age", "invalid_type"),
        ({"demographics": {"age": 34.0}}, "/demographics/age", "invalid_type"),
        ({"demographics": {"date_of_birth": "2999-01-01"}}, "/demographics/date_of_birth", "date_in_future"),
        ({"demographics": {"date_of_birth": "1800-01-01"}}, "/demographics/date_of_birth", "too_small"),
        ({"demographics": {"date_of_birth": "01.01.1992"}}, "/demographics/date_of_birth", "invalid_date"),
        ({"demographics": {"gender": "x" * 65}}, "/demographics/gender", "too_long"),
        ({"demographics": {"country": "Germany"}}, "/demographics/country", "unknown_country"),
        ({"demographics": {"country": "XX"}}, "/demographics/country", "unknown_country"),
        ({"demographics": {"country": "XK"}}, "/demographics/country", "unknown_country"),
        ({"demographics": {"timezone": "localtime"}}, "/demographics/timezone", "unknown_timezone"),
        ({"demographics": {"timezone": "Berlin"}}, "/demographics/timezone", "unknown_timezone"),
        ({"demographics": {"language": "deutsch!"}}, "/demographics/language", "invalid_language"),
        ({"demographics": {"language": "xx"}}, "/demographics/language", "invalid_language"),
        ({"demographics": {"language": "de_DE"}}, "/demographics/language", "invalid_language"),
        ({"demographics": {"language": "de-DE-Latn"}}, "/demographics/language", "invalid_language"),
        ({"demographics": {"shoe_size": 38}}, "/demographics/shoe_size", "unknown_field"),
        ({"demographics": []}, "/demographics", "invalid_type"),
        ({"privacy_preferences": {"email": False}}, "/privacy_preferences/email", "unknown_field"),
        ({"privacy_preferences": {"city": 0}}, "/privacy_preferences/city", "invalid_type"),
        ({"consents": {"everything": True}}, "/consents/everything", "unknown_field"),
        ({"consents": {"marketing": "true"}}, "/consents/marketing", "invalid_type"),
        ({"transactions": {"total_revenue": "5.00"}}, "/transactions/total_revenue", "read_only"),
        ({"transactions": {"gift": 1}}, "/transactions/gift", "unknown_field"),
        ({"transactions": {"subscription_tier": ""}}, "/transactions/subscription_tier", "blank"),
        ({"behavior": {}}, "/behavior", "read_only"),
        ({"behavior": None}, "/behavior", "read_only"),
        ({"created_at": "2026-01-05T10:00:00Z"}, "/created_at", "read_only"),
        ({"a/b~c": 1}, "/a~1b~0c", "unknown_field"),
    ],
)
async def test_an_error_has_a_pointer_and_a_code(
    api: Clients, changes: dict[str, Any], pointer: str, code: str
) -> None:
    for method, path in (("POST", "/users"), ("PATCH", "/users/u-1")):
        if method == "PATCH" and "user_id" in changes:
            continue
        document = user() | changes if method == "POST" else changes
        assert field_errors(await api.admin.request(method, path, json=document)) == {(pointer, code)}


async def test_all_errors_are_reported_at_once(api: Clients) -> None:
    document = user(email="x", name="", demographics={"age": "x", "nope": 1})
    assert field_errors(await api.admin.post("/users", json=document)) == {
        ("/email", "invalid_email"),
        ("/name", "blank"),
        ("/demographics/age", "invalid_type"),
        ("/demographics/nope", "unknown_field"),
    }


@pytest.mark.parametrize("domain", ["example.com", "shop.test", "office.local", "bücher.example"])
async def test_an_email_address_is_stored_as_sent(api: Clients, domain: str) -> None:
    address = f"Ada.Lovelace+crm@{domain}"
    assert (await api.admin.post("/users", json=user(email=address))).json()["email"] == address


@pytest.mark.parametrize("user_id", ["x" * 128, "A.b_c:d-9", "-", ".-", "...", "00"])
async def test_an_id_may_consist_of_any_of_its_characters(api: Clients, user_id: str) -> None:
    created = await api.admin.post("/users", json=user(user_id, email="ada@example.com"))
    assert created.status_code == 201
    assert (await api.admin.get(created.headers["location"])).status_code == 200


async def test_a_country_is_stored_in_capitals(api: Clients) -> None:
    created = await api.admin.post("/users", json=collected(country="de"))
    assert created.json()["demographics"]["country"] == "DE"


async def test_a_second_create_for_an_id_is_a_conflict(api: Clients) -> None:
    await api.admin.post("/users", json=user())
    assert_problem(await api.admin.post("/users", json=user(name="Another")), 409, "user_exists")
    assert (await api.admin.get("/users/u-1")).json()["name"] == "Ada Lovelace"


async def test_an_unknown_user_is_404(api: Clients) -> None:
    for path in (
        "/users/u-2",
        "/users/anonymous",
        "/users/ada%40example.com",
        "/users/%00",
        "/users/" + "x" * 200,
    ):
        assert (await api.admin.get(path)).status_code == 404
        assert (await api.admin.patch(path, json={"name": "X"})).status_code == 404
    assert_problem(await api.admin.get("/users/u-2"), 404, "user_not_found")


async def test_a_patch_changes_what_it_names_and_nothing_else(api: Clients) -> None:
    before = (await api.admin.post("/users", json=EVERYTHING)).json()
    changed = await api.admin.patch(
        "/users/u-1",
        json={"name": "Ada King", "demographics": {"city": "London", "gender": None}, "user_id": "u-1"},
    )
    assert changed.status_code == 200
    after = changed.json()
    assert after["name"] == "Ada King"
    assert after["demographics"] == before["demographics"] | {"city": "London", "gender": None}
    for name in set(before) - {"name", "demographics", "updated_at"}:
        assert after[name] == before[name]
    assert datetime.fromisoformat(after["updated_at"]) > datetime.fromisoformat(before["updated_at"])
    assert (await api.admin.get("/users/u-1")).json() == after


async def test_a_patch_accepts_the_media_type_of_merge_patches(api: Clients) -> None:
    await api.admin.post("/users", json=user())
    headers = {"Content-Type": "application/merge-patch+json"}
    assert (await api.admin.patch("/users/u-1", content=b'{"name": "X"}', headers=headers)).json()["name"] == "X"


async def test_null_removes_a_group(api: Clients) -> None:
    await api.admin.post("/users", json=EVERYTHING)
    patch = {
        "demographics": None,
        "privacy_preferences": None,
        "transactions": None,
        "lifecycle_stage_pinned": None,
    }
    after = (await api.admin.patch("/users/u-1", json=patch)).json()
    assert set(after["demographics"].values()) == {None}
    assert after["privacy_preferences"] == {}
    assert after["transactions"]["subscription_tier"] is None
    assert after["lifecycle_stage_pinned"] is False


@pytest.mark.parametrize("name", ["email", "name", "signup_date", "account_status", "lifecycle_stage"])
async def test_null_does_not_remove_a_core_attribute(api: Clients, name: str) -> None:
    await api.admin.post("/users", json=user())
    assert field_errors(await api.admin.patch("/users/u-1", json={name: None})) == {(f"/{name}", "required")}


async def test_an_id_never_changes(api: Clients) -> None:
    await api.admin.post("/users", json=user())
    assert field_errors(await api.admin.patch("/users/u-1", json={"user_id": "u-2"})) == {
        ("/user_id", "read_only")
    }


@pytest.mark.parametrize(
    "patch", [{}, {"name": "Ada Lovelace"}, {"demographics": {"shoe": None}}, {"demographics": {"city": None}}]
)
async def test_a_patch_that_changes_nothing_keeps_time_and_tag(api: Clients, patch: dict[str, Any]) -> None:
    created = await api.admin.post("/users", json=user())
    again = await api.admin.patch("/users/u-1", json={k: v for k, v in patch.items() if v != {"shoe": None}})
    assert again.json() == created.json()
    assert again.headers["etag"] == created.headers["etag"]


async def test_demographics_need_consent_to_data_collection(api: Clients) -> None:
    document = user(demographics={"city": "Berlin"})
    assert_problem(await api.admin.post("/users", json=document), 403, "consent_required")
    assert_problem(await api.admin.get("/users/u-1"), 404, "user_not_found")

    await api.admin.post("/users", json=user())
    assert_problem(await api.admin.patch("/users/u-1", json={"demographics": {"age": 3}}), 403, "consent_required")
    both = {"demographics": {"age": 3}, "consents": {"data_collection": True}}
    assert (await api.admin.patch("/users/u-1", json=both)).json()["demographics"]["age"] == 3
    assert (await api.admin.patch("/users/u-1", json={"demographics": {"age": 4}})).status_code == 200


async def test_empty_demographics_need_no_consent(api: Clients) -> None:
    assert (await api.admin.post("/users", json=user(demographics={}))).status_code == 201
    assert (await api.admin.patch("/users/u-1", json={"demographics": {"city": None}})).status_code == 200


async def test_after_a_withdrawal_demographics_can_be_removed_and_not_changed(api: Clients) -> None:
    await api.admin.post("/users", json=collected(city="Berlin", age=34))
    withdrawn = await api.admin.patch("/users/u-1", json={"consents": {"data_collection": None}})
    assert withdrawn.json()["consents"]["data_collection"] is False
    other = {"demographics": {"city": "Bonn"}}
    assert_problem(await api.admin.patch("/users/u-1", json=other), 403, "consent_required")
    removed = await api.admin.patch("/users/u-1", json={"demographics": {"city": None}})
    assert removed.json()["demographics"]["city"] is None


@pytest.mark.parametrize("city", ["Berlin", "Bonn"])
async def test_a_403_reveals_nothing_of_the_stored_profile(api: Clients, city: str) -> None:
    await api.admin.post("/users", json=collected(city="Berlin"))
    await api.admin.delete("/users/u-1/consents/data_collection")
    guess = {"demographics": {"city": city}}
    assert_problem(await api.integrator.patch("/users/u-1", json=guess), 403, "consent_required")
    batch = await api.integrator.post("/users/batch", json={"users": [{"user_id": "u-1", **guess}]})
    assert [each["status"] for each in batch.json()["results"]] == ["rejected"]


async def test_an_attribute_that_a_preference_forbids_is_not_stored(api: Clients) -> None:
    document = collected(city="Berlin", age=34) | {"privacy_preferences": {"city": False}}
    demographics = (await api.admin.post("/users", json=document)).json()["demographics"]
    assert demographics["city"] is None
    assert demographics["age"] == 34


async def test_an_attribute_that_a_preference_forbids_needs_no_consent(api: Clients) -> None:
    document = user(demographics={"city": "Berlin"}, privacy_preferences={"city": False})
    assert (await api.admin.post("/users", json=document)).status_code == 201


async def test_an_attribute_is_deleted_when_a_preference_forbids_it(api: Clients) -> None:
    await api.admin.post("/users", json=collected(city="Berlin", age=34))
    changed = await api.admin.patch("/users/u-1", json={"privacy_preferences": {"city": False}})
    assert changed.json()["demographics"]["city"] is None
    back = await api.admin.patch("/users/u-1", json={"privacy_preferences": {"city": True}})
    assert back.json()["demographics"]["city"] is None, "it was deleted, not hidden"


async def test_a_birthday_today_is_not_in_the_future(api: Clients) -> None:
    today = datetime.now(UTC).date().isoformat()
    assert (await api.admin.post("/users", json=collected(date_of_birth=today))).status_code == 201


@pytest.mark.parametrize("user_id", [".", ".."])
async def test_an_id_that_clients_remove_from_paths_is_refused(api: Clients, user_id: str) -> None:
    named = user(user_id, email="ada@example.com")
    assert field_errors(await api.admin.post("/users", json=named)) == {("/user_id", "invalid_user_id")}
    answer = await api.admin.post("/users/batch", json={"users": [named, named | {"user_id": "..."}]})
    assert [each["status"] for each in answer.json()["results"]] == ["rejected", "created"]
    assert (await api.admin.get("/users/...")).status_code == 200


async def test_the_age_follows_from_the_date_of_birth_wherever_a_profile_is_shown(api: Clients) -> None:
    created = await api.admin.post("/users", json=collected(age=50, date_of_birth=BORN))
    read = await api.admin.get("/users/u-1")
    [listed] = (await api.admin.get("/users")).json()["data"]
    exported = (await api.admin.get("/users/u-1/export")).json()["profile"]
    assert [each["demographics"]["age"] for each in (created.json(), read.json(), listed, exported)] == [34] * 4
    for role in (api.operator, api.analyst):
        assert (await role.get("/users/u-1")).json()["demographics"]["age"] == "***"

    async def after(**patch: Any) -> Any:
        return (await api.admin.patch("/users/u-1", json=patch)).json()["demographics"]["age"]

    assert await after(privacy_preferences={"date_of_birth": False}) == 50
    assert await after(privacy_preferences={"date_of_birth": True}, demographics={"date_of_birth": BORN}) == 34
    assert await after(demographics={"date_of_birth": None}) == 50
    assert await after(privacy_preferences={"age": False}, demographics={"date_of_birth": BORN}) is None
