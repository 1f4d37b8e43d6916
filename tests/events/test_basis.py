"""The legal basis of event types: everything needs consent, until an admin declares another basis."""

from __future__ import annotations

from typing import Any

import pytest

from models.vocabulary import Role
from privacy.encryption import Cipher
from runtime.database import Database
from store.connection import Connection
from store.events import carts, events
from store.users import data_keys
from tests.support.builders import user
from tests.support.events import batch, codes, event, moment, purchase, statuses
from tests.support.http import Clients, assert_problem, field_errors
from tests.support.log import Log
from tests.support.redactions import redact_all

FAILED = "billing.payment_failed"
REFUND = "transaction.refund"
CONTRACT = {"basis": "contract", "basis_reason": "The subscription's invoices are paid under its contract."}
DECLARATION = {"schema": {"type": "object"}, **CONTRACT}


async def declare(api: Clients, event_type: str, document: dict[str, Any]) -> dict[str, Any]:
    answer = await api.admin.put(f"/events/types/{event_type}", json=document)
    assert answer.status_code in (200, 201), answer.text
    declared: dict[str, Any] = answer.json()
    return declared


async def listed(api: Clients) -> dict[str, tuple[str, str | None]]:
    """The basis and its reason, by event type."""
    types = (await api.analyst.get("/events/types", params={"limit": 1000})).json()["data"]
    return {each["event_type"]: (each["basis"], each["basis_reason"]) for each in types}


async def test_out_of_the_box_every_type_needs_consent(api: Clients) -> None:
    await declare(api, FAILED, {"schema": {"type": "object"}})
    assert set((await listed(api)).values()) == {("consent", None)}


async def test_an_admin_declares_a_basis_with_its_reason_and_takes_it_back(
    api: Clients, owner: Connection
) -> None:
    await owner.execute("DELETE FROM audit_log")
    declared = await declare(api, FAILED, DECLARATION)
    assert (declared["basis"], declared["basis_reason"]) == ("contract", CONTRACT["basis_reason"])
    await declare(api, FAILED, {"schema": {"type": "object"}})
    assert (await listed(api))[FAILED] == ("consent", None)
    details = [
        [row["basis_before"], row["basis"], row["basis_reason"]]
        for row in await owner.fetch(
            """SELECT details->>'basis' AS basis, details->>'basis_before' AS basis_before,
                      details->>'basis_reason' AS basis_reason
               FROM audit_log WHERE action = 'event_types.change' ORDER BY audit_id"""
        )
    ]
    assert details == [["consent", "contract", CONTRACT["basis_reason"]], ["contract", "consent", None]]


async def test_of_a_standard_type_only_the_basis_can_be_declared(api: Clients) -> None:
    before = (await api.admin.get("/events/types")).json()["data"]
    answer = await api.admin.put(f"/events/types/{REFUND}", json=CONTRACT)
    assert answer.status_code == 200, answer.text
    after = (await api.admin.get("/events/types")).json()["data"]
    [changed] = [each for each in after if each not in before]
    assert changed == answer.json()
    [was] = [each for each in before if each["event_type"] == REFUND]
    differing = {name for name in was if was[name] != changed[name]}
    assert differing == {"basis", "basis_reason", "changed_at", "version"}
    others: list[dict[str, Any]] = [
        {"schema": was["schema"]},
        {"description": "x"},
        {"pii": []},
        {"dimensions": []},
    ]
    for more in others:
        answer = await api.admin.put(f"/events/types/{REFUND}", json=CONTRACT | more)
        assert field_errors(answer) == {("/path/event_type", "read_only")}
    await declare(api, REFUND, {"basis": "consent"})
    assert (await listed(api))[REFUND] == ("consent", None)


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"basis": "legitimate_interests"}, "/basis", "invalid_choice"),
        ({"basis": None}, "/basis", "required"),
        ({"basis_reason": None}, "/basis_reason", "required"),
        ({"basis_reason": " \n"}, "/basis_reason", "required"),
        ({"basis_reason": "x" * 301}, "/basis_reason", "too_long"),
        ({"basis_reason": "ask ada@example.com"}, "/basis_reason", "basis_reason_is_personal"),
        ({"basis_reason": "as for +49 170 1234567"}, "/basis_reason", "basis_reason_is_personal"),
    ],
)
async def test_a_basis_without_a_reason_or_of_another_kind_is_rejected(
    api: Clients, changes: dict[str, Any], pointer: str, code: str
) -> None:
    answer = await api.admin.put(f"/events/types/{FAILED}", json=DECLARATION | changes)
    assert field_errors(answer) == {(pointer, code)}
    assert FAILED not in await listed(api)


async def test_a_custom_type_still_needs_a_schema(api: Clients) -> None:
    answer = await api.admin.put(f"/events/types/{FAILED}", json=CONTRACT)
    assert field_errors(answer) == {("/schema", "required")}


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ANALYST, Role.INTEGRATOR])
async def test_only_an_admin_declares_a_basis(api: Clients, role: Role) -> None:
    assert_problem(await api.of(role).put(f"/events/types/{REFUND}", json=CONTRACT), 403, "forbidden")


@pytest.fixture
async def billed(api: Clients) -> Clients:
    """A user without consent, and a type under contract."""
    await declare(api, FAILED, {**DECLARATION, "dimensions": ["plan"]})
    assert (await api.admin.post("/users", json=user())).status_code == 201
    return api


def failed(event_id: str | None = None, **changes: Any) -> dict[str, Any]:
    """A failed payment, with all parts of an event."""
    whole = {
        "event_properties": {"invoice_id": "i-1", "plan": "pro", "country": "DE"},
        "location": {"country": "DE"},
        "device_info": {"device_type": "tv"},
        "referrer": "https://x.example",
    }
    return event(event_id, event_type=FAILED, **whole | changes)


async def send(api: Clients, document: dict[str, Any]) -> None:
    answer = await api.integrator.post("/events", json=document)
    assert (answer.status_code, answer.json()["status"]) == (202, "accepted"), answer.text


async def stored(api: Clients) -> dict[str, dict[str, Any]]:
    """The user's events by id."""
    answer = await api.admin.get("/users/u-1/events", params={"limit": 1000})
    return {each["event_id"]: each for each in answer.json()["data"]}


async def consent(api: Clients, *, granted: bool = True) -> None:
    answer = await api.admin.put("/users/u-1/consents/data_collection", json={"granted": granted})
    assert answer.status_code == 200


async def test_without_consent_only_types_with_another_basis_are_taken(billed: Clients) -> None:
    await send(billed, failed("e-1"))
    assert_problem(await billed.integrator.post("/events", json=event()), 403, "consent_required")
    sent = await batch(billed, event("e-2"), failed("e-3"), failed("e-1"), failed("e-4", user_id="nobody"))
    assert statuses(sent) == ["rejected", "accepted", "duplicate", "rejected"]
    assert codes(sent)[0] == [("/events/0/user_id", "consent_required")]
    assert codes(sent)[3] == [("/events/3/user_id", "user_unknown")]
    assert {each: document["basis"] for each, document in (await stored(billed)).items()} == {
        "e-1": "contract",
        "e-3": "contract",
    }


async def test_of_an_event_without_consent_only_the_properties_are_stored(
    billed: Clients, owner: Connection
) -> None:
    await send(billed, failed("e-1"))
    found = (await stored(billed))["e-1"]
    assert found["event_properties"] == failed()["event_properties"]
    assert [found[name] for name in ("location", "device_info", "referrer")] == [None] * 3
    assert await owner.fetchval("SELECT dimensions FROM events") is None


async def test_with_consent_an_event_of_such_a_type_is_stored_as_any_other(
    billed: Clients, owner: Connection
) -> None:
    await consent(billed)
    assert (await billed.admin.post("/users", json=user("u-2"))).status_code == 201
    assert statuses(await batch(billed, failed("e-1"), failed("e-2", user_id="u-2"))) == ["accepted"] * 2
    found = (await stored(billed))["e-1"]
    assert {name: found[name] for name in failed() if name in ("location", "device_info", "referrer")} == {
        "location": {"country": "DE"},
        "device_info": {"device_type": "tv"},
        "referrer": "https://x.example",
    }
    assert found["basis"] == "consent"
    assert await owner.fetchval("SELECT dimensions->>'plan' FROM events WHERE user_id = 'u-1'") == "pro"
    assert await owner.fetchval("SELECT basis FROM events WHERE user_id = 'u-2'") == "contract"


async def test_a_withdrawal_ends_the_consent_and_not_the_contract(billed: Clients) -> None:
    await consent(billed)
    await send(billed, failed("e-1"))
    await consent(billed, granted=False)
    await send(billed, failed("e-2"))
    assert_problem(await billed.integrator.post("/events", json=event()), 403, "consent_required")
    assert {each: document["basis"] for each, document in (await stored(billed)).items()} == {
        "e-1": "consent",
        "e-2": "contract",
    }


async def test_a_later_declaration_holds_for_the_next_event_and_changes_no_stored_one(billed: Clients) -> None:
    await send(billed, failed("e-1"))
    await declare(billed, FAILED, DECLARATION | {"basis": "legal_obligation"})
    await send(billed, failed("e-2"))
    await declare(billed, FAILED, {"schema": {"type": "object"}})
    assert_problem(await billed.integrator.post("/events", json=failed("e-3")), 403, "consent_required")
    await consent(billed)
    export = (await billed.admin.get("/users/u-1/export")).json()
    assert {each["event_id"]: each["basis"] for each in export["events"]} == {
        "e-1": "contract",
        "e-2": "legal_obligation",
    }


async def test_no_basis_stores_an_event_of_an_erased_person(billed: Clients, owner: Connection) -> None:
    await owner.execute("UPDATE data_keys SET wrapped = NULL")
    assert_problem(await billed.integrator.post("/events", json=failed()), 410, "user_erased")
    await owner.execute("UPDATE data_keys SET wrapped = '\\x00'")
    assert_problem(await billed.integrator.post("/events", json=failed()), 500, "data_unreadable")
    assert await owner.fetchval("SELECT count(*) FROM events") == 0


async def test_an_opt_out_spares_what_a_contract_needs(
    billed: Clients, database: Database, cipher: Cipher
) -> None:
    await send(billed, failed("before"))
    await consent(billed)
    await send(billed, failed("with consent"))
    await consent(billed, granted=False)
    opt_out = {"privacy_preferences": {"country": False}}
    assert (await billed.admin.patch("/users/u-1", json=opt_out)).status_code == 200
    await redact_all(database, cipher)
    await send(billed, failed("after"))
    found = {
        each: document["event_properties"].get("country") for each, document in (await stored(billed)).items()
    }
    assert found == {"before": "DE", "with consent": None, "after": "DE"}


async def effects(api: Clients) -> tuple[int, dict[str, Any], str]:
    """The purchases, the behaviour and the account's status on the profile."""
    profile = (await api.admin.get("/users/u-1")).json()
    return profile["transactions"]["total_purchases"], profile["behavior"], profile["account_status"]


async def test_without_consent_a_purchase_counts_and_behaviour_does_not(
    api: Clients, database: Database, cipher: Cipher
) -> None:
    behaviour = ("engagement.feature_click", "user.login", "user.account_deletion")
    for event_type in ("transaction.purchase_complete", *behaviour):
        await declare(api, event_type, CONTRACT)
    assert (await api.admin.post("/users", json=user(consents={"profiling": True}))).status_code == 201
    before = await effects(api)
    happened = [
        purchase(),
        event(event_type="engagement.feature_click", event_properties={"feature": "export"}),
        event(event_type="user.login"),
        event(event_type="user.account_deletion"),
    ]
    assert statuses(await batch(api, *happened)) == ["accepted"] * 4
    log = Log(database, cipher)
    await log.project()
    assert await effects(api) == (1, *before[1:])
    async with database.connection() as connection:
        assert await events.last_seen(connection, "u-1", "*") is None
        assert await connection.fetchval("SELECT count(*) FROM user_activity") == 0
    await consent(api)
    await send(api, event(event_type="user.login"))
    await log.project()
    assert (await effects(api))[1]["session_count"] == 1
    async with database.connection() as connection:
        assert await events.last_seen(connection, "u-1", "*") is not None


async def test_a_cart_holds_what_was_put_into_it_with_consent(
    billed: Clients, database: Database, cipher: Cipher
) -> None:
    await declare(billed, "transaction.cart_remove", CONTRACT)
    shoe: dict[str, Any] = {"event_properties": {"product_id": "shoe"}}

    async def empty() -> bool:
        async with database.connection() as connection:
            return await carts.cart_is_empty(connection, await data_keys.require(connection, cipher, "u-1"))

    await consent(billed)
    await send(billed, event(event_type="transaction.cart_add", timestamp=moment(minutes=3), **shoe))
    await consent(billed, granted=False)
    await send(billed, event(event_type="transaction.cart_remove", timestamp=moment(minutes=2), **shoe))
    assert not await empty()
    await consent(billed)
    await send(billed, event(event_type="transaction.cart_remove", timestamp=moment(minutes=1), **shoe))
    assert await empty()
