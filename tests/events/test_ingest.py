"""`POST /events` and `POST /events/batch`, by the contract."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from models.vocabulary import Role
from store.connection import Connection
from tests.support.events import add_user, batch, codes, event, moment, purchase, statuses
from tests.support.http import Clients, assert_problem, field_errors

NOT_AN_EVENT_ID = ["", " \n", "x" * 129, "a\u0000b", "a\u200bb", None, 5]


async def stored_ids(owner: Connection) -> list[str]:
    return [row["event_id"] for row in await owner.fetch("SELECT event_id FROM events ORDER BY event_id")]


async def test_an_accepted_event_is_stored_and_a_duplicate_the_second_time(
    api: Clients, owner: Connection
) -> None:
    await add_user(api.admin)
    sent = purchase("e-1")
    first = await api.integrator.post("/events", json=sent)
    assert (first.status_code, first.json()) == (202, {"event_id": "e-1", "status": "accepted"})
    assert await stored_ids(owner) == ["e-1"]
    second = await api.integrator.post("/events", json={**sent, "timestamp": moment(days=3)})
    assert (second.status_code, second.json()) == (202, {"event_id": "e-1", "status": "duplicate"})
    assert await stored_ids(owner) == ["e-1"]


@pytest.mark.parametrize("changes", [{"user_id": "u-2"}, {"event_type": "lesson.start"}])
async def test_an_id_of_another_event_is_a_conflict(api: Clients, changes: dict[str, Any]) -> None:
    await add_user(api.admin)
    await add_user(api.admin, "u-2")
    assert statuses(await batch(api, event("e-1"))) == ["accepted"]
    answer = await api.integrator.post("/events", json=event("e-1") | changes)
    assert_problem(answer, 409, "event_id_conflict")
    mixed = await batch(api, event("e-1") | changes, event("e-1"), event("e-2"))
    assert statuses(mixed) == ["rejected", "duplicate", "accepted"]
    assert codes(mixed)[0] == [("/events/0/event_id", "event_id_conflict")]


async def test_duplicates_and_conflicts_within_a_batch(api: Clients, owner: Connection) -> None:
    await add_user(api.admin)
    answer = await batch(api, event("e-1"), event("e-1"), event("e-1", event_type="lesson.start"), event("e-2"))
    assert statuses(answer) == ["accepted", "duplicate", "rejected", "accepted"]
    assert (answer["accepted"], answer["duplicates"], answer["rejected"]) == (2, 1, 1)
    assert await stored_ids(owner) == ["e-1", "e-2"]


async def test_a_rejected_event_does_not_take_its_id(api: Clients) -> None:
    await add_user(api.admin)
    answer = await batch(api, event("e-1", "u-nobody"), event("e-1"))
    assert statuses(answer) == ["rejected", "accepted"]


async def test_rejected_events_do_not_affect_the_others_of_their_batch(api: Clients, owner: Connection) -> None:
    await add_user(api.admin)
    await api.admin.post("/users", json=(await _without_consent()))
    answer = await batch(
        api,
        event("e-0"),
        "nonsense",
        event("e-2", "u-unknown"),
        event("e-3", "u-silent"),
        event("e-4", timestamp=moment(hours=-25)),
        event("e-5", timestamp=moment(days=366)),
        event("e-6", event_type="Lesson.Finish"),
        event("e-7", extra=1),
        {"event_id": "e-8"},
        purchase("e-9", amount="-1"),
        event("e-10"),
    )
    assert statuses(answer) == ["accepted", *["rejected"] * 9, "accepted"]
    assert codes(answer)[1:10] == [
        [("/events/1", "invalid_type")],
        [("/events/2/user_id", "user_unknown")],
        [("/events/3/user_id", "consent_required")],
        [("/events/4/timestamp", "timestamp_in_future")],
        [("/events/5/timestamp", "event_expired")],
        [("/events/6/event_type", "invalid_event_type")],
        [("/events/7/extra", "unknown_field")],
        [(f"/events/8/{name}", "required") for name in ("user_id", "event_type", "timestamp", "session_id")],
        [("/events/9/event_properties/amount", "invalid_value")],
    ]
    assert [each["event_id"] for each in answer["results"]] == ["e-0", None, *(f"e-{n}" for n in range(2, 11))]
    assert await stored_ids(owner) == ["e-0", "e-10"]


async def _without_consent() -> dict[str, Any]:
    from tests.support.builders import user

    return user("u-silent")


async def test_a_batch_without_an_accepted_event_is_422_with_the_results(api: Clients) -> None:
    answer = await api.integrator.post("/events/batch", json={"events": [event("e-0"), {}]})
    problem = assert_problem(answer, 422, "validation_failed")
    assert (problem["accepted"], problem["duplicates"], problem["rejected"]) == (0, 0, 2)
    assert [result["status"] for result in problem["results"]] == ["rejected"] * 2
    assert {"pointer": "/events/0/user_id", "code": "user_unknown"}.items() <= problem["errors"][0].items()
    assert problem["errors"][1]["pointer"] == "/events/1/event_id"


async def test_a_rejected_single_event_gets_the_problem_of_its_reason(api: Clients) -> None:
    await api.admin.post("/users", json=await _without_consent())
    send = api.integrator.post
    assert_problem(await send("/events", json=event(user_id="u-unknown")), 422, "user_unknown")
    assert_problem(await send("/events", json=event(user_id="u-silent")), 403, "consent_required")
    future = await send("/events", json=event(user_id="u-silent", timestamp=moment(hours=-25)))
    assert field_errors(future) == {("/timestamp", "timestamp_in_future")}
    expired = await send("/events", json=event(user_id="u-silent", timestamp=moment(days=366)))
    assert field_errors(expired) == {("/timestamp", "event_expired")}
    assert field_errors(await send("/events", json={**event(), "event_type": "signup"})) == {
        ("/event_type", "invalid_event_type")
    }


async def test_an_event_of_an_erased_user_is_410_and_does_not_affect_others(
    api: Clients, owner: Connection
) -> None:
    await add_user(api.admin)
    await add_user(api.admin, "u-gone")
    await owner.execute("UPDATE data_keys SET wrapped = NULL, destroyed_at = now() WHERE subject = 'u-gone'")
    assert_problem(await api.integrator.post("/events", json=event(user_id="u-gone")), 410, "user_erased")
    answer = await batch(api, event(user_id="u-gone"), event())
    assert codes(answer) == [[("/events/0/user_id", "user_erased")], []]


@pytest.mark.parametrize("event_id", NOT_AN_EVENT_ID)
async def test_an_event_id_is_1_to_128_printable_characters(api: Clients, event_id: Any) -> None:
    answer = await api.integrator.post("/events", json={**event(), "event_id": event_id})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == "/event_id"


@pytest.mark.parametrize("event_id", ["x" * 128, "Größe 1/2 ✓ 🛒", "~", "a b"])
async def test_any_printable_text_is_an_event_id(api: Clients, event_id: str) -> None:
    await add_user(api.admin)
    answer = await api.integrator.post("/events", json=event(event_id))
    assert (answer.status_code, answer.json()["event_id"]) == (202, event_id)


@pytest.mark.parametrize(
    "event_type",
    [
        "signup",
        "User.signup",
        "user.",
        ".signup",
        "user.sign-up",
        "user.a.b",
        "1user.x",
        "user.x\n",
        "a." + "b" * 127,
    ],
)
async def test_the_naming_rule_of_types(api: Clients, event_type: str) -> None:
    answer = await api.integrator.post("/events", json=event(event_type=event_type))
    assert field_errors(answer) == {("/event_type", "invalid_event_type")}


@pytest.mark.parametrize("amount", ["0", "0.00", 0, 12, 12.5, "999999999999.999999", 0.000001])
async def test_money_may_be_a_string_or_a_number_and_zero(api: Clients, amount: Any) -> None:
    await add_user(api.admin)
    assert (await api.integrator.post("/events", json=purchase(amount=amount))).status_code == 202


@pytest.mark.parametrize(
    "amount",
    [
        *("-1", "1,5", "1e3", "NaN", "Infinity", "", ".5", "1.", "1.1234567", True, None, []),
        *(-0.01, 1e12, 1e-7, 123456789012.65433, 0.1 + 0.2),
    ],
)
async def test_an_invalid_amount_is_rejected(api: Clients, amount: Any) -> None:
    await add_user(api.admin)
    answer = await api.integrator.post("/events", json=purchase(amount=amount))
    assert {pointer for pointer, _ in field_errors(answer)} == {"/event_properties/amount"}


@pytest.mark.parametrize("missing", ["order_id", "amount", "currency"])
@pytest.mark.parametrize("event_type", ["transaction.purchase_complete", "transaction.refund"])
async def test_a_purchase_and_a_refund_have_an_order_an_amount_and_a_currency(
    api: Clients, event_type: str, missing: str
) -> None:
    await add_user(api.admin)
    sent = purchase() | {"event_type": event_type}
    del sent["event_properties"][missing]
    answer = await api.integrator.post("/events", json=sent)
    assert field_errors(answer) == {(f"/event_properties/{missing}", "required")}


@pytest.mark.parametrize("currency", ["usd", "US", "DOLLAR", "", 840, None])
async def test_a_currency_is_three_capital_letters(api: Clients, currency: Any) -> None:
    await add_user(api.admin)
    answer = await api.integrator.post("/events", json=purchase(currency=currency))
    assert {pointer for pointer, _ in field_errors(answer)} == {"/event_properties/currency"}


async def test_a_standard_type_without_properties_lacks_its_required_ones(api: Clients) -> None:
    await add_user(api.admin)
    answer = await api.integrator.post("/events", json=event(event_type="engagement.feature_click"))
    assert field_errors(answer) == {("/event_properties/feature", "required")}
    assert (await api.integrator.post("/events", json=event(event_type="user.login"))).status_code == 202


async def test_sizes_and_depths_are_bounded(api: Clients) -> None:
    await add_user(api.admin)
    deep: dict[str, Any] = {}
    for _ in range(17):
        deep = {"a": deep}
    answer = await batch(
        api,
        event(event_properties={"a": "x" * (32 * 1024 - 8)}),
        event(event_properties={"a": "x" * (32 * 1024 - 7)}),
        event(location={"a": "x" * (8 * 1024)}),
        event(event_properties=deep),
        event(event_properties=deep["a"]),
        event(referrer="x" * 2049),
    )
    assert codes(answer) == [
        [],
        [("/events/1/event_properties", "too_large")],
        [("/events/2/location", "too_large")],
        [("/events/3/event_properties", "too_deep")],
        [],
        [("/events/5/referrer", "too_long")],
    ]


async def test_a_batch_has_1_to_2000_events(api: Clients) -> None:
    await add_user(api.admin)
    empty = await api.integrator.post("/events/batch", json={"events": []})
    assert field_errors(empty) == {("/events", "too_short")}
    many = [event(f"e-{number}") for number in range(2001)]
    assert field_errors(await api.integrator.post("/events/batch", json={"events": many})) == {
        ("/events", "too_long")
    }
    assert (await batch(api, *many[:2000]))["accepted"] == 2000


async def test_historical_marks_old_data(api: Clients, owner: Connection) -> None:
    await add_user(api.admin)
    await batch(api, event("e-1"), historical=True)
    await batch(api, event("e-2"))
    rows = await owner.fetch("SELECT event_id, historical FROM events ORDER BY event_id")
    assert [tuple(row) for row in rows] == [("e-1", True), ("e-2", False)]


async def test_a_missing_partition_is_created(api: Clients, owner: Connection) -> None:
    await add_user(api.admin)
    moments = [moment(days=days) for days in (0, 200, 300)]
    answer = await batch(api, *(event(timestamp=each) for each in moments))
    assert answer["accepted"] == 3
    tables = {
        row["name"] for row in await owner.fetch("SELECT DISTINCT tableoid::regclass::text AS name FROM events")
    }
    assert tables == {f"events_{each[:4]}_{each[5:7]}" for each in moments}


async def test_a_dropped_partition_is_created_again(api: Clients, owner: Connection) -> None:
    await add_user(api.admin)
    when = moment(days=100)
    await batch(api, event(timestamp=when))
    partition = f"events_{when[:4]}_{when[5:7]}"
    await owner.execute(f"ALTER TABLE events DETACH PARTITION {partition}")
    await owner.execute(f"DROP TABLE {partition}")
    assert (await batch(api, event("e-2", timestamp=when)))["accepted"] == 1
    assert (await api.integrator.post("/events", json=event(timestamp=when))).status_code == 202


async def test_a_changed_retention_applies_to_the_next_event(api: Clients) -> None:
    await add_user(api.admin)
    old = event(timestamp=moment(days=500))
    assert (await api.integrator.post("/events", json=old)).status_code == 422
    answer = await api.admin.put("/retention/events", json={"days": 730})
    assert answer.json()["days"] == 730
    assert (await api.integrator.post("/events", json=old)).status_code == 202
    assert (await api.admin.get("/retention/events")).json()["days"] == 730


async def test_the_default_retention_is_365_days(api: Clients) -> None:
    answer = (await api.admin.get("/retention/events")).json()
    assert (answer["days"], answer["changed_at"], answer["changed_by"]) == (365, None, None)
    for days in (0, -1, 3651, "30", 1.5, None):
        assert (await api.admin.put("/retention/events", json={"days": days})).status_code == 422
    for role in (Role.OPERATOR, Role.ANALYST, Role.INTEGRATOR):
        assert (await api.of(role).put("/retention/events", json={"days": 1})).status_code == 403


async def test_concurrent_single_events_get_results_of_their_own(api: Clients, owner: Connection) -> None:
    await add_user(api.admin)
    sent = [event(f"e-{number}", user_id="u-1" if number % 4 else "u-unknown") for number in range(100)]
    answers = await asyncio.gather(*(api.integrator.post("/events", json=each) for each in [*sent, *sent]))
    for number in range(100):
        both = (answers[number], answers[number + 100])
        if number % 4:
            assert sorted(each.json()["status"] for each in both) == ["accepted", "duplicate"]
        else:
            assert [each.status_code for each in both] == [422, 422]
    assert len(await stored_ids(owner)) == 75
    transactions = await owner.fetchval("SELECT count(DISTINCT xid) FROM events")
    assert transactions < 40, "many go into one transaction"


async def test_each_role_may_send_or_read_as_the_contract_says(api: Clients) -> None:
    await add_user(api.admin)
    for role, may in ((Role.ADMIN, 202), (Role.INTEGRATOR, 202), (Role.OPERATOR, 403), (Role.ANALYST, 403)):
        assert (await api.of(role).post("/events", json=event())).status_code == may
        assert (await api.of(role).post("/events/batch", json={"events": [event()]})).status_code == may
    for role, may in ((Role.ADMIN, 200), (Role.INTEGRATOR, 403), (Role.OPERATOR, 200), (Role.ANALYST, 200)):
        assert (await api.of(role).get("/users/u-1/events")).status_code == may
