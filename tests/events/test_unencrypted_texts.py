"""Texts that Postgres holds unencrypted: ids that aren't personal, and words. Others are encrypted or refused."""

from __future__ import annotations

from typing import Any

import pytest

from models.vocabulary import Role
from store.connection import Connection
from tests.support.builders import user
from tests.support.events import add_user, batch, codes, event, purchase
from tests.support.http import Clients, field_errors

PERSONAL = [
    "ada@example.com",
    "ADA%40EXAMPLE.COM",
    "+49 170 1234567",
    "%2B491701234567",
    "0170/1234567",
    "4111-1111-1111-1111",
]
CANARY = "4111 1111 1111 1111"


@pytest.mark.parametrize("name", ["event_id", "session_id", "user_id"])
@pytest.mark.parametrize("value", PERSONAL)
async def test_an_id_that_is_an_address_or_a_telephone_number_is_refused(
    api: Clients, name: str, value: str
) -> None:
    await add_user(api.admin)
    alone = await api.integrator.post("/events", json=event() | {name: value})
    assert alone.status_code == 422
    assert field_errors(alone) == {(f"/{name}", f"{name}_is_personal")}
    among = await batch(api, event(), event() | {name: value})
    assert codes(among) == [[], [(f"/events/1/{name}", f"{name}_is_personal")]]


@pytest.mark.parametrize("user_id", ["0170-1234567", "555-123-4567", "00491701234567", "tel:5551234", *PERSONAL])
async def test_no_user_has_such_an_id(api: Clients, user_id: str) -> None:
    alone = await api.integrator.post("/users", json=user() | {"user_id": user_id})
    assert field_errors(alone) == {("/user_id", "user_id_is_personal")}
    among = (await api.integrator.post("/users/batch", json={"users": [user() | {"user_id": user_id}]})).json()
    assert among["results"][0]["errors"][0]["code"] == "user_id_is_personal"


async def test_ordinary_ids_are_taken(api: Clients) -> None:
    ids = ["12345678", "1764500000000", "order-20261130-0001", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "2026-11-30-1"]
    for each in ids:
        await add_user(api.admin, each)
    answer = await batch(api, *(event(each, user_id=each, session_id=each) for each in ids))
    assert answer["accepted"] == len(ids)


@pytest.mark.parametrize(
    ("event_type", "properties", "kept"),
    [
        ("user.logout", {"reason": "Ada moved to Berlin"}, None),
        ("user.logout", {"reason": "idle_timeout"}, '{"reason": "idle_timeout"}'),
        ("user.account_deletion", {"reason": "write to ada@example.com"}, None),
        ("user.signup", {"method": "+49 170 1234567", "plan": "pro"}, '{"plan": "pro"}'),
        ("shop.visit", {"table": "Ada Lovelace", "seat": 4111111111111111, "row": 7}, '{"row": 7}'),
        ("shop.visit", {"table": "DE89370400440532013000", "seat": "5551234", "row": True}, '{"row": true}'),
    ],
)
async def test_a_dimension_that_is_no_word_stays_in_the_encrypted_body(
    api: Clients, owner: Connection, event_type: str, properties: dict[str, Any], kept: str | None
) -> None:
    await add_user(api.admin)
    declaration = {"schema": {"type": "object"}, "dimensions": ["table", "seat", "row"]}
    await api.admin.put("/events/types/shop.visit", json=declaration)
    sent = event("e-1", event_type=event_type, event_properties=properties)
    assert (await api.integrator.post("/events", json=sent)).status_code == 202
    assert await owner.fetchval("SELECT dimensions FROM events") == kept
    assert (await api.admin.get("/users/u-1/events")).json()["data"][0]["event_properties"] == properties


async def test_a_card_number_is_neither_stored_in_the_clear_nor_shown(api: Clients, owner: Connection) -> None:
    await add_user(api.admin)
    for number in (CANARY, CANARY.replace(" ", ""), CANARY.replace(" ", "-")):
        paid = purchase(payment_method=number, order_id=number)
        assert (await api.integrator.post("/events", json=paid)).status_code == 202
    rows = await owner.fetch("SELECT dimensions FROM events")
    assert [row["dimensions"] for row in rows] == ['{"currency": "USD"}'] * 3
    for role in (Role.OPERATOR, Role.ANALYST):
        assert "4111" not in (await api.of(role).get("/users/u-1/events")).text


@pytest.mark.parametrize(
    "feature", ["Ada Lovelace", "ada@example.com", "+491701234567", CANARY, "5105105105105100"]
)
async def test_a_feature_is_a_word(api: Clients, feature: str) -> None:
    await add_user(api.admin)
    click = event(event_type="engagement.feature_click", event_properties={"feature": feature})
    answer = await api.integrator.post("/events", json=click)
    assert field_errors(answer) == {("/event_properties/feature", "feature_is_personal")}
    click["event_properties"]["feature"] = "export.csv"
    assert (await api.integrator.post("/events", json=click)).status_code == 202


@pytest.mark.parametrize("text", ["Ada's form", "ada@example.com", "+49 170 1234567", "5551234567", CANARY])
async def test_other_unencrypted_texts_are_words(api: Clients, text: str) -> None:
    await add_user(api.admin)
    path = "/users/u-1/consents/marketing"
    for name in ("source", "policy_version"):
        answer = await api.integrator.put(path, json={"granted": True, name: text})
        assert field_errors(answer) == {(f"/{name}", f"{name}_is_personal")}
        item = {"user_id": "u-1", "purpose": "marketing", "granted": True, name: text}
        (result,) = (await api.integrator.post("/consents/batch", json={"consents": [item]})).json()["results"]
        assert [(each["pointer"], each["code"]) for each in result["errors"]] == [
            (f"/consents/0/{name}", f"{name}_is_personal")
        ]
    patch = {"transactions": {"subscription_tier": text}}
    answer = await api.integrator.patch("/users/u-1", json=patch)
    assert field_errors(answer) == {("/transactions/subscription_tier", "subscription_tier_is_personal")}
    given = {"granted": True, "source": "import:crm-2026", "policy_version": "2026-01-15"}
    assert (await api.integrator.put(path, json=given)).status_code == 200


@pytest.mark.parametrize("text", ["of ada@example.com", "call +49 170 1234567", f"card {CANARY}"])
async def test_an_admins_texts_name_no_address_or_number(api: Clients, text: str) -> None:
    key = await api.admin.post("/keys", json={"name": text, "role": "analyst"})
    assert field_errors(key) == {("/name", "name_is_personal")}
    declared = await api.admin.put("/events/types/shop.visit", json={"schema": {}, "description": text})
    assert field_errors(declared) == {("/description", "description_is_personal")}


@pytest.mark.parametrize("request_id", ["0170-1234567", "555-123-4567"])
async def test_a_telephone_number_as_request_id_is_replaced(api: Clients, request_id: str) -> None:
    answer = await api.admin.get("/users", headers={"X-Request-Id": request_id})
    assert answer.headers["x-request-id"] != request_id


async def test_only_properties_that_are_declared_not_personal_are_shown(api: Clients) -> None:
    await add_user(api.admin)
    schema = {"type": "object", "properties": {"phase": {"type": "string"}, "floor": {"type": "integer"}}}
    await api.admin.put("/events/types/shop.visit", json={"schema": schema})
    loose = {
        "phone": 5551234,
        "salary": 52000,
        "where": {"x": 52.52, "y": 13.405, "points": [52.52, 13.405]},
        "title": "Dr.",
        "pregnant": True,
        "nothing": None,
    }
    hidden = {
        "phone": "***",
        "salary": "***",
        "where": {"x": "***", "y": "***", "points": ["***", "***"]},
        "title": "***",
        "pregnant": "***",
        "nothing": None,
    }
    declared = {"phase": "ada@example.com", "floor": 3}
    seen = {
        "shop.visit": (loose | declared, hidden | {"phase": "***", "floor": 3}),
        "shop.other": (loose, hidden),
        "engagement.content_view": (
            loose | {"content_id": 17, "content_type": "video", "duration": 4.5},
            hidden | {"content_id": 17, "content_type": "video", "duration": 4.5},
        ),
        "transaction.cart_add": (
            {"product": "A book for Ada", "category": "books", "price": "9.50", **loose},
            {"product": "***", "category": "books", "price": "9.50", **hidden},
        ),
    }
    for event_type, (sent, shown) in seen.items():
        one = event(event_type, event_type=event_type, event_properties=sent, device_info=loose, location=loose)
        assert (await api.integrator.post("/events", json=one)).status_code == 202
        for role in (Role.OPERATOR, Role.ANALYST):
            client = api.of(role)
            listed = (await client.get("/users/u-1/events")).json()["data"]
            exported = (await client.get("/users/u-1/export")).json()["events"]
            found = [each for each in (*listed, *exported) if each["event_id"] == event_type]
            assert [each["event_properties"] for each in found] == [shown] * 2
            assert [each["device_info"] for each in found] == [each["location"] for each in found] == [hidden] * 2
