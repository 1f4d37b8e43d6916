"""The values of an event's fields, and events that can't be stored within a batch of others."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from store.connection import Connection
from tests.support.events import add_user, batch, codes, event, purchase, statuses
from tests.support.http import Clients, assert_problem, field_errors

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("order_id", ["", "x" * 129, 1.5, True, None, [], 1 << 63, 123456789012345678901])
async def test_an_invalid_order_id_is_rejected(api: Clients, order_id: Any) -> None:
    await add_user(api.admin)
    answer = await api.integrator.post("/events", json=purchase(order_id=order_id))
    assert {pointer for pointer, _ in field_errors(answer)} == {"/event_properties/order_id"}
    assert (await api.integrator.post("/events", json=purchase(order_id=17))).status_code == 202


@pytest.mark.parametrize(
    ("user_id", "code"),
    [
        ("null", "user_id_reserved"),
        ("Anonymous", "user_id_reserved"),
        ("0", "user_id_reserved"),
        ("ada@example.com", "user_id_is_personal"),
        ("@" * 3000, "user_id_is_personal"),
        ("x" * 3000, "invalid_user_id"),
        ("", "invalid_user_id"),
        (".", "invalid_user_id"),
        ("..", "invalid_user_id"),
    ],
)
async def test_an_invalid_user_id_is_rejected_with_the_code_of_its_defect(
    api: Clients, user_id: str, code: str
) -> None:
    await add_user(api.admin)
    alone = await api.integrator.post("/events", json=event(user_id=user_id))
    assert field_errors(alone) == {("/user_id", code)}
    assert codes(await batch(api, event(), event(user_id=user_id))) == [[], [("/events/1/user_id", code)]]


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("event_id", ".", "invalid_event_id"),
        ("event_id", "..", "invalid_event_id"),
        ("session_id", ".", "invalid_session_id"),
        ("session_id", "..", "invalid_session_id"),
        ("session_id", "workflow:", "session_id_reserved"),
        ("session_id", "workflow:3f2a", "session_id_reserved"),
        ("event_type", "lifecycle.stage_changed", "event_type_reserved"),
    ],
)
async def test_an_id_is_no_path_and_no_session_or_event_of_the_platform(
    api: Clients, name: str, value: str, code: str
) -> None:
    await add_user(api.admin)
    alone = await api.integrator.post("/events", json=event(**{name: value}))
    assert field_errors(alone) == {(f"/{name}", code)}
    assert codes(await batch(api, event(), event(**{name: value}))) == [[], [(f"/events/1/{name}", code)]]


@pytest.mark.parametrize(
    "value", ["...", ".a", "..a", "a..", "w", "workflow", "workflows:1", "Workflow:1", "\U0001f600"]
)
async def test_ids_that_only_resemble_those_are_taken(api: Clients, value: str) -> None:
    await add_user(api.admin)
    similar = ("lifecycle.stage_change", "lifecycle.stage_changed_", "lifecycle.stage", "lifecycle_stage.changed")
    for event_type in similar:
        assert (await api.integrator.post("/events", json=event(event_type=event_type))).status_code == 202
    for name in ("event_id", "session_id"):
        assert (await api.integrator.post("/events", json=event(**{name: value}))).status_code == 202


@pytest.mark.parametrize(
    ("timestamp", "code"),
    [
        ("9999-12-31T23:59:59Z", "timestamp_in_future"),
        ("0001-01-01T00:00:00Z", "event_expired"),
        ("1899-12-31T23:59:59+14:00", "event_expired"),
        ("9999-12-31T23:59:59-00:01", "invalid_time"),
        ("0001-01-01T00:00:00+00:01", "invalid_time"),
        ("2026-06-30T23:59:60Z", "invalid_time"),
        ("2026-06-30T23:59:59+00:60", "invalid_time"),
        ("2026-06-30T23:59:59+24:00", "invalid_time"),
        ("2026-06-30T23:59:59", "invalid_time"),
        ("2026-02-29T00:00:00Z", "invalid_time"),
    ],
)
async def test_an_invalid_time_and_one_outside_the_window_are_rejected(
    api: Clients, timestamp: str, code: str
) -> None:
    answer = await api.integrator.post("/events", json=event(timestamp=timestamp))
    assert field_errors(answer) == {("/timestamp", code)}


async def test_the_time_window_does_not_depend_on_utc_offsets(api: Clients) -> None:
    await add_user(api.admin)
    ahead = datetime.now(UTC) + timedelta(hours=23)
    stamps = [
        ahead.astimezone(timezone(timedelta(minutes=each))).isoformat() for each in (-1439, -30, 0, 840, 1439)
    ]
    answer = await batch(api, *(event(timestamp=each) for each in stamps))
    assert answer["accepted"] == len(stamps)
    for each in (await api.admin.get("/users/u-1/events")).json()["data"]:
        assert each["timestamp"] == ahead.isoformat().replace("+00:00", "Z")


def _nested(levels: int) -> Any:
    document: Any = "x"
    for _ in range(levels):
        document = [document]
    return document


@pytest.mark.parametrize(
    ("bad", "errors"),
    [
        (
            {"event_properties": {"a": ["x", "b\u0000"]}},
            [("/events/1/event_properties/a/1", "invalid_characters")],
        ),
        ({"session_id": "s\u0000"}, [("/events/1/session_id", "invalid_characters")]),
        ({"event_properties": {"a": ["\ud83d"]}}, [("/events/1/event_properties/a/0", "invalid_characters")]),
        ({"event_properties": {"\udc00": 1}}, [("/events/1/event_properties", "invalid_characters")]),
        ({"referrer": "\ud83d", "session_id": 1 << 70}, [("/events/1/referrer", "invalid_characters")]),
        ({"event_properties": {"a": _nested(300)}}, [("/events/1", "too_deep")]),
        ({"event_properties": {"a": _nested(100)}}, [("/events/1/event_properties", "too_deep")]),
    ],
)
async def test_an_event_that_cannot_be_stored_does_not_affect_the_others_of_its_batch(
    api: Clients, owner: Connection, bad: dict[str, Any], errors: list[tuple[str, str]]
) -> None:
    await add_user(api.admin)
    big = event("e-1", event_properties={"big": 1 << 70, "emoji": "\U0001f600"})
    document = json.dumps({"events": [big, event("e-2", **bad), event("e-3")]})
    sent = await api.integrator.post("/events/batch", content=document, headers=JSON)
    assert sent.status_code == 202, sent.text
    answer = sent.json()
    assert statuses(answer) == ["accepted", "rejected", "accepted"]
    assert codes(answer)[1] == errors
    assert answer["results"][1]["event_id"] == "e-2"
    assert [row["event_id"] for row in await owner.fetch("SELECT event_id FROM events ORDER BY 1")] == [
        "e-1",
        "e-3",
    ]


async def test_a_number_out_of_range_does_not_affect_the_other_events_of_its_batch(api: Clients) -> None:
    await add_user(api.admin)
    good, bad = json.dumps(event("e-1")), json.dumps(event("e-2", event_properties={"a": [0]}))
    content = '{"events": [' + good + "," + bad.replace("[0]", "[0, 1e999]") + "]}"
    sent = await api.integrator.post("/events/batch", content=content, headers=JSON)
    assert statuses(sent.json()) == ["accepted", "rejected"]
    assert codes(sent.json())[1] == [("/events/1/event_properties/a/1", "number_out_of_range")]


async def test_a_number_of_thousands_of_digits_does_not_affect_the_other_events_of_its_batch(api: Clients) -> None:
    await add_user(api.admin)
    good, bad = json.dumps(event("e-1")), json.dumps(event("e-2", event_properties={"a": [0]}))
    content = '{"events": [' + good + "," + bad.replace("[0]", "9" * 5000) + "]}"
    sent = await api.integrator.post("/events/batch", content=content, headers=JSON)
    assert statuses(sent.json()) == ["accepted", "rejected"]
    assert codes(sent.json())[1] == [("/events/1/event_properties/a", "number_out_of_range")]


async def test_an_item_with_very_many_errors_gets_one_error_for_all(api: Clients) -> None:
    await add_user(api.admin)
    unknown: dict[str, Any] = {f"field-{number}": number for number in range(45_000)}
    few = dict(list(unknown.items())[:20])
    answer = await batch(api, event("e-1"), event("e-2", **unknown), event("e-3", **few))
    assert statuses(answer) == ["accepted", "rejected", "rejected"]
    assert codes(answer)[1] == [("/events/1", "too_many_errors")]
    assert codes(answer)[2] == [(f"/events/2/field-{number}", "unknown_field") for number in range(20)]


async def test_a_batch_of_unusable_events_is_422_and_so_is_a_single_unusable_event(
    api: Clients,
) -> None:
    await add_user(api.admin)
    sent = event("e-1", event_properties={"a": "\u0000"})
    answer = await api.integrator.post("/events/batch", json={"events": [sent, "\u0000"]})
    assert (answer.status_code, answer.json()["rejected"]) == (422, 2)
    for text in ("\u0000", "\ud83d"):
        content = json.dumps(event("e-1", event_properties={"a": text}))
        alone = await api.integrator.post("/events", content=content, headers=JSON)
        assert field_errors(alone) == {("/event_properties/a", "invalid_characters")}


@pytest.mark.parametrize("extra", ["NaN", "-Infinity", '"\n"', "01", "[" * 3000 + "]" * 3000, "{"])
async def test_malformed_json_is_reported_also_next_to_half_a_surrogate_pair(api: Clients, extra: str) -> None:
    content = '{"events": ["\\ud83d", ' + extra + "]}"
    answer = await api.integrator.post("/events/batch", content=content, headers=JSON)
    assert_problem(answer, 400, "malformed_json")
