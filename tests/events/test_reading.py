"""`GET /users/{id}/events`: order, pages and masking; and the stored form of events."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from models.vocabulary import Role
from privacy.encryption import Cipher
from store.connection import Connection
from tests.support.events import add_user, event, moment
from tests.support.http import Clients, assert_problem, field_errors

FULL: dict[str, Any] = {
    "event_properties": {"query": "knee pain", "results": 3, "note": "for Ada", "deep": {"n": 1, "s": "x"}},
    "device_info": {"device_type": "mobile", "os": "iOS", "device_id": "abc", "ip": "10.0.0.1"},
    "location": {"country": "de", "city": "Berlin", "timezone": "Europe/Berlin", "lat": 52.5},
    "referrer": "https://ada@shop.example/path?email=ada@example.com#x",
}

GIFT: dict[str, Any] = {
    "type": "object",
    "properties": {"to": {"type": "array", "items": {"type": ["string", "object"]}}, "size": {"type": "string"}},
}


async def send(api: Clients, *events: dict[str, Any]) -> None:
    answer = await api.integrator.post("/events/batch", json={"events": list(events)})
    assert answer.status_code == 202, answer.text
    assert answer.json()["accepted"] == len(events), answer.text


async def test_an_admin_sees_an_event_as_it_was_sent(api: Clients) -> None:
    await add_user(api.admin)
    sent = event("e-1", event_type="engagement.search", **FULL)
    await send(api, sent)
    (shown,) = (await api.admin.get("/users/u-1/events")).json()["data"]
    assert shown.pop("received_at")
    assert shown == {**sent, "historical": False, "basis": "consent"}


async def test_other_roles_see_an_event_masked(api: Clients) -> None:
    await add_user(api.admin)
    await send(api, event("e-1", event_type="engagement.search", **FULL))
    for role in (Role.OPERATOR, Role.ANALYST):
        (shown,) = (await api.of(role).get("/users/u-1/events")).json()["data"]
        assert shown["event_properties"] == {
            "query": "***",
            "results": 3,
            "note": "***",
            "deep": {"n": "***", "s": "***"},
        }
        assert shown["device_info"] == {"device_type": "mobile", "os": "iOS", "device_id": "***", "ip": "***"}
        assert shown["location"] == {
            "country": "de",
            "city": "B*****",
            "timezone": "***",
            "lat": "***",
        }
        assert shown["referrer"] == "***"


async def test_a_custom_types_pointers_are_masked_at_any_depth(api: Clients) -> None:
    await add_user(api.admin)
    schema = {"type": "object", "properties": {"gift": GIFT, "note": {"type": "string"}}}
    declaration = {"schema": schema, "pii": ["/gift/to/0"], "dimensions": []}
    assert (await api.admin.put("/events/types/shop.gift", json=declaration)).status_code == 201
    properties = {"gift": {"to": [{"name": "Bob"}, "Eve"], "size": "L", "card": "x"}, "note": "hi"}
    await send(api, event(event_type="shop.gift", event_properties=properties))
    (shown,) = (await api.analyst.get("/users/u-1/events")).json()["data"]
    assert shown["event_properties"] == {
        "gift": {"to": [{"name": "***"}, "Eve"], "size": "L", "card": "***"},
        "note": "hi",
    }


async def test_data_in_the_place_of_a_property_name_is_masked(api: Clients) -> None:
    await add_user(api.admin)
    odd = {"ada@example.com": {"x y": 1}}
    await send(api, event("e-1", event_properties=odd, device_info=odd, location=odd))
    (shown,) = (await api.analyst.get("/users/u-1/events")).json()["data"]
    assert shown["event_properties"] == shown["device_info"] == {"***": {"***": "***"}}
    assert "ada" not in str(shown)


async def test_properties_without_a_schema_show_nothing_personal(api: Clients) -> None:
    await add_user(api.admin)
    properties = {
        "call": 491715550123,
        "card": [4111111111111111, 4.5],
        "age": 34,
        "home": {"lat": 52.5123, "Zip-Code": 10117, "floor": 3},
        "found": {"event_id": "Ada Lovelace", "born_at": "1971-03-07T00:00:00Z", "mail": "0" * 32},
        "gift": True,
        "price": 1999.5,
    }
    await send(api, event(event_type="shop.visit", event_properties=properties))
    (shown,) = (await api.analyst.get("/users/u-1/events")).json()["data"]
    assert shown["event_properties"] == {
        "call": "***",
        "card": ["***", "***"],
        "age": "***",
        "home": {"lat": "***", "Zip-Code": "***", "floor": "***"},
        "found": {"event_id": "***", "born_at": "***", "mail": "***"},
        "gift": "***",
        "price": "***",
    }


async def test_pages_list_the_newest_events_first_across_partitions(api: Clients) -> None:
    await add_user(api.admin)
    await add_user(api.admin, "u-2")
    tied = moment(days=40)
    whens = [moment(days=80), tied, tied, tied, moment(days=1), moment(days=0)]
    await send(api, *(event(f"e-{number}", timestamp=when) for number, when in enumerate(whens)))
    await send(api, event(user_id="u-2"))
    seen, cursor = [], None
    for _ in range(3):
        parameters = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await api.admin.get("/users/u-1/events", params=parameters)).json()
        seen += [each["event_id"] for each in page["data"]]
        cursor = page["pagination"]["next_cursor"]
    assert (seen, cursor) == (["e-5", "e-4", "e-3", "e-2", "e-1", "e-0"], None)


async def test_a_list_has_filters_by_type_and_time(api: Clients) -> None:
    await add_user(api.admin)
    whens = [moment(days=40), moment(days=3), moment(days=2), moment(days=1)]
    types = ["lesson.finish", "lesson.start", "lesson.finish", "lesson.finish"]
    sent = zip(whens, types, strict=True)
    await send(api, *(event(f"e-{at}", timestamp=when, event_type=kind) for at, (when, kind) in enumerate(sent)))

    async def found(**wanted: Any) -> list[str]:
        answer = await api.operator.get("/users/u-1/events", params=wanted)
        return [each["event_id"] for each in answer.json()["data"]]

    assert await found(event_type="lesson.finish") == ["e-3", "e-2", "e-0"]
    assert await found(since=whens[1]) == ["e-3", "e-2", "e-1"]
    assert await found(until=whens[2]) == ["e-1", "e-0"]
    assert await found(event_type="lesson.finish", since=whens[0], until=whens[3]) == ["e-2", "e-0"]
    first = (await api.operator.get("/users/u-1/events?limit=2&event_type=lesson.finish")).json()
    assert await found(event_type="lesson.finish", cursor=first["pagination"]["next_cursor"]) == ["e-0"]
    assert await found(event_type="lesson.*") == ["e-3", "e-2", "e-1", "e-0"]
    assert await found(event_type="lesson.*", since=whens[1], until=whens[3], limit=1) == ["e-2"]
    assert await found(event_type="less.*") == []
    assert await found(event_type="lesson.*", since=whens[1], until=whens[1]) == []
    backwards = await api.operator.get("/users/u-1/events", params={"since": whens[1], "until": whens[0]})
    assert field_errors(backwards) == {("/query/until", "before_since")}
    for pattern in ("", "*", "lesson", "lesson.", "lesson.*.*", ".*", "les_on.%"):
        answer = await api.operator.get("/users/u-1/events", params={"event_type": pattern})
        assert field_errors(answer) == {("/query/event_type", "invalid_event_type")}, pattern
    wrong = await api.operator.get("/users/u-1/events?event_type=Lesson&since=now&until=2026-01-01")
    assert field_errors(wrong) == {
        ("/query/event_type", "invalid_event_type"),
        ("/query/since", "invalid_time"),
        ("/query/until", "invalid_time"),
    }


async def test_an_event_is_read_by_its_id_as_in_the_list(api: Clients, owner: Connection) -> None:
    await add_user(api.admin)
    ids = ["e-1", "type/e 2?", "batch/1"]
    await send(
        api, *(event(each, event_type="engagement.search", timestamp=moment(days=40), **FULL) for each in ids)
    )
    for role in (Role.ADMIN, Role.OPERATOR, Role.ANALYST):
        listed = {each["event_id"]: each for each in (await api.of(role).get("/users/u-1/events")).json()["data"]}
        for event_id in ids:
            answer = await api.of(role).get(f"/events/{quote(event_id, safe='')}")
            assert (answer.status_code, answer.json()) == (200, listed[event_id])
    assert (await api.admin.get("/events/types")).json()["data"][0]["standard"]
    for missing in ("e-9", "..%2Fe-1", "x" * 129):
        assert_problem(await api.admin.get(f"/events/{missing}"), 404, "event_not_found")
    subjects = await owner.fetch("SELECT user_id FROM audit_log WHERE action = 'events.read' AND outcome = 'done'")
    assert [each["user_id"] for each in subjects] == ["u-1"] * 9
    await owner.execute("UPDATE data_keys SET wrapped = NULL, destroyed_at = now()")
    assert_problem(await api.admin.get("/events/e-1"), 410, "user_erased")


async def test_an_event_is_read_by_its_id_after_a_logical_restore(api: Clients, owner: Connection) -> None:
    """A restore keeps the transaction id in the event's column. The row of its id has that of the restore."""
    await add_user(api.admin)
    await send(api, event("e-1"))
    await owner.execute("UPDATE events SET xid = '7'")
    assert (await api.admin.get("/events/e-1")).json()["event_id"] == "e-1"


async def test_listing_events_of_an_unknown_an_erased_and_an_inactive_user(
    api: Clients, owner: Connection
) -> None:
    assert_problem(await api.admin.get("/users/u-1/events"), 404, "user_not_found")
    await add_user(api.admin)
    assert (await api.admin.get("/users/u-1/events")).json()["data"] == []
    await send(api, event())
    await owner.execute("UPDATE data_keys SET wrapped = NULL, destroyed_at = now()")
    assert_problem(await api.admin.get("/users/u-1/events"), 410, "user_erased")


async def test_the_body_is_encrypted_and_bound_to_user_column_and_event(
    api: Clients, owner: Connection, cipher: Cipher
) -> None:
    await add_user(api.admin)
    await send(api, event("e-1", event_type="engagement.search", **FULL))
    row = await owner.fetchrow("SELECT * FROM events JOIN data_keys ON subject = user_id")
    assert row is not None
    assert b"knee" not in row["body"]
    key = cipher.unwrap("u-1", row["wrapped"])
    assert key.decrypt_json("events.body", row["body"], "e-1") == FULL
    assert row["dimensions"] == '{"country": "DE", "device_type": "mobile"}'


async def test_declared_dimensions_are_stored_in_plaintext(api: Clients, owner: Connection) -> None:
    await add_user(api.admin)
    click = {"feature": "export", "element": "button"}
    await send(
        api,
        event("e-1", event_type="engagement.feature_click", event_properties=click),
        event("e-2", event_type="some.thing", event_properties=click),
        event("e-3", device_info={"device_type": "Ada's phone"}, location={"country": "Atlantis"}),
    )
    rows = await owner.fetch("SELECT event_id, dimensions FROM events ORDER BY event_id")
    assert [tuple(row) for row in rows] == [("e-1", '{"feature": "export"}'), ("e-2", None), ("e-3", None)]


async def test_attributes_that_preferences_forbid_are_not_stored(api: Clients, owner: Connection) -> None:
    await add_user(api.admin, privacy_preferences={"city": False, "country": False, "device_type": False})
    place = {
        "country": "DE",
        "City": "Berlin",
        "geo": {"Latitude": 52.5, "lon": 13.4},
        "timezone": "Europe/Berlin",
    }
    await send(
        api,
        event(
            location=place,
            device_info={"device_type": "mobile", "os": "iOS"},
            event_properties={"city": "x", "to": [{"country": "DE"}], "type": "gift", "zip": "10117"},
        ),
    )
    (shown,) = (await api.admin.get("/users/u-1/events")).json()["data"]
    assert shown["location"] == {"geo": {}, "timezone": "Europe/Berlin"}
    assert shown["device_info"] == {"os": "iOS"}
    assert shown["event_properties"] == {"to": [{}], "type": "gift", "zip": "10117"}
    assert await owner.fetchval("SELECT dimensions FROM events") is None


@pytest.mark.parametrize(
    ("attribute", "part", "kept"),
    [
        ("country", {"countryCode": "DE", "country_iso_code": "DE", "ISO Country": "DE"}, {"county": "x"}),
        ("city", {"cityName": "B", "geo_city": "B", "postalCode": "1", "coords": [1, 2]}, {"velocity": 3}),
        ("language", {"userLanguage": "de", "accept-language": "de", "browserLocale": "de"}, {"slang": "y"}),
        ("timezone", {"timeZone": "UTC", "user_tz": "UTC", "utcOffset": 0}, {"zone": "a"}),
        ("device_type", {"deviceType": "mobile", "device_category": "tv"}, {"osType": "x", "typed": True}),
        ("date_of_birth", {"dateOfBirth": "1990-01-01", "dob": "x"}, {"birthplace": "z"}),
    ],
)
async def test_forbidden_attributes_are_found_in_any_spelling(
    api: Clients, attribute: str, part: dict[str, Any], kept: dict[str, Any]
) -> None:
    await add_user(api.admin, privacy_preferences={attribute: False})
    await send(api, event(location={"in": [part | kept]}, device_info=part | kept))
    (shown,) = (await api.admin.get("/users/u-1/events")).json()["data"]
    assert (shown["location"], shown["device_info"]) == ({"in": [kept]}, kept)


async def test_a_forbidden_property_is_found_in_any_spelling(api: Clients) -> None:
    await add_user(api.admin, privacy_preferences={"device_type": False})
    await send(api, event(event_properties={"deviceType": "tv", "Device-Type": "tv", "osType": "gift"}))
    (shown,) = (await api.admin.get("/users/u-1/events")).json()["data"]
    assert shown["event_properties"] == {"osType": "gift"}


async def test_a_preference_applies_to_the_next_event(api: Clients) -> None:
    await add_user(api.admin)
    await send(api, event("e-1", timestamp=moment(minutes=2), location={"city": "Berlin"}))
    await api.integrator.patch("/users/u-1", json={"privacy_preferences": {"city": False}})
    await send(api, event("e-2", location={"city": "Berlin"}))
    newest, before = (await api.admin.get("/users/u-1/events")).json()["data"]
    assert (newest["location"], before["location"]) == ({}, {"city": "Berlin"})
