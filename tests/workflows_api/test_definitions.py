"""A definition's settings, and those of an admin or a request that replace them, from the API to the attempts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from temporalio.client import Client

from models.temporal.execution import RecordedEvent
from models.temporal.identity import temporal_workflow_id
from models.vocabulary import Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from testing.mail import MailServer
from testing.people import Customer
from testing.samples import parameters_of
from tests.support.http import Clients, assert_problem, field_errors
from tests.support.log import NOON
from tests.workflows_api.conftest import execute, until
from worker import build_worker
from workflows.catalog import catalog


@pytest.fixture
async def rejecting(
    settings: Settings, temporal: Client, database: Database, cipher: Cipher, mail: MailServer
) -> AsyncIterator[None]:
    """A worker whose mail server rejects every recipient."""
    mail.refuse_recipients = "450 come back later"
    there = settings.model_copy(update={"smtp_url": mail.url})
    async with build_worker(temporal, there, database, cipher):
        yield


async def attempts_of(api: Clients, customer: Customer, **body: Any) -> tuple[int, int]:
    """The instance's maximum, and the attempts at its failing step."""
    instance = (await execute(api, customer, **body)).json()
    path = f"/workflows/onboarding/instances/{instance['instance_id']}"
    failed = await until(api, path, status="failed")
    return instance["max_attempts"], len(failed["retries"])


async def test_the_request_sets_the_maximum_before_the_admin_and_the_definition(
    api: Clients, customer: Customer, rejecting: None
) -> None:
    """The instance shows the maximum, and its step has that many attempts."""
    shown = await api.admin.patch("/workflows/onboarding", json={"max_attempts": 2})
    assert shown.json()["max_attempts"] == 2
    by_admin, by_request = await asyncio.gather(
        attempts_of(api, customer), attempts_of(api, customer, max_attempts=1)
    )
    assert by_admin == (2, 2)
    assert by_request == (1, 1)


async def test_the_definition_sets_the_maximum_by_default(api: Clients, customer: Customer) -> None:
    assert (await execute(api, customer)).json()["max_attempts"] == 30
    more = await execute(api, customer, max_attempts=7)
    assert more.json()["max_attempts"] == 7
    assert (await api.analyst.get("/workflows/onboarding")).json()["max_attempts"] == 30


async def test_an_instance_that_a_request_started_has_the_exits(
    api: Clients, database: Database, cipher: Cipher, temporal: Client, working: None
) -> None:
    customer = await Customer.new(database, cipher, Purpose.MARKETING)
    answer = await api.operator.post("/workflows/cart_recovery/execute", json={"user_id": customer.user_id})
    instance_id = answer.json()["instance_id"]
    path = f"/workflows/cart_recovery/instances/{instance_id}"
    await until(api, path, current_step="wait_for_end_of_shopping")
    handle = temporal.get_workflow_handle(temporal_workflow_id("cart_recovery", instance_id))
    event = RecordedEvent(event_id="e-1", event_type="transaction.purchase_complete", timestamp=NOON)
    await handle.signal("event_recorded", event)
    ended = await until(api, path, status="completed")
    assert ended["reason"] == "purchased"


async def test_a_marketing_workflow_needs_the_consent_and_a_service_none(
    api: Clients, customer: Customer, working: None
) -> None:
    for workflow_id, definition in catalog().items():
        body = {"user_id": customer.user_id, "parameters": parameters_of(definition)}
        answer = await api.operator.post(f"/workflows/{workflow_id}/execute", json=body)
        if definition.purpose is None:
            assert answer.status_code == 202
        else:
            assert_problem(answer, 403, "consent_required")


async def test_each_workflow_shows_its_trigger_exits_and_parameters(api: Clients) -> None:
    listed = {each["workflow_id"]: each for each in (await api.analyst.get("/workflows")).json()["data"]}
    assert list(listed) == sorted(catalog())
    cart = listed["cart_recovery"]
    assert cart["purpose"] == "marketing"
    assert cart["trigger"] == {
        "event_type": "transaction.cart_add",
        "where": {},
        "max_age": "PT1H",
        "once_per": "P7D",
    }
    assert {
        "event_type": "transaction.purchase_complete",
        "where": {},
        "parameters": {},
        "condition": None,
        "reason": "purchased",
    } in cart["exit_on"]
    assert listed["post_purchase"]["exit_on"][0]["parameters"] == {"order_id": "order_id"}
    assert listed["post_purchase"]["parameters"]["properties"]["order_id"]["from_trigger"] == "order_id"
    for each in listed.values():
        for parameter in each["parameters"]["properties"].values():
            assert "default" in parameter
            assert parameter["description"]


async def test_the_catalogue_is_listed_in_pages(api: Clients) -> None:
    whole = (await api.analyst.get("/workflows")).json()
    assert whole["pagination"] == {"limit": 100, "next_cursor": None}
    seen, url = [], "/workflows?limit=4"
    while url:
        page = (await api.analyst.get(url)).json()
        seen += [each["workflow_id"] for each in page["data"]]
        cursor = page["pagination"]["next_cursor"]
        url = f"/workflows?limit=4&cursor={cursor}" if cursor else ""
    assert seen == list(catalog())
    assert field_errors(await api.analyst.get("/workflows?cursor=nonsense")) == {
        ("/query/cursor", "invalid_cursor")
    }


async def test_an_invalid_parameter_is_named(api: Clients, database: Database, cipher: Cipher) -> None:
    customer = await Customer.new(database, cipher, Purpose.MARKETING)
    answer = await api.operator.post(
        "/workflows/win_back/execute",
        json={"user_id": customer.user_id, "parameters": {"news_after": "soon", "unknown": 1}},
    )
    assert {pointer for pointer, _ in field_errors(answer)} == {
        "/parameters/news_after",
        "/parameters/unknown",
    }


def test_the_parameters_of_every_workflow_are_in_openapi(openapi: dict[str, Any]) -> None:
    schemas = openapi["components"]["schemas"]
    offered = {each["$ref"] for each in schemas["ExecuteRequest"]["properties"]["parameters"]["anyOf"]}
    for definition in catalog().values():
        name = definition.parameters.__name__
        assert schemas[name]["properties"] == definition.parameter_schema["properties"]
        assert f"#/components/schemas/{name}" in offered


@pytest.fixture
def openapi(api: Clients) -> dict[str, Any]:
    transport = api.admin._transport
    app: FastAPI = transport.app  # type: ignore[attr-defined]
    return app.openapi()
