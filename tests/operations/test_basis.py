"""Events under contract of a person without consent: through the API, the projector and the outbox to Temporal."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from runtime.database import Database
from tests.support.builders import user
from tests.support.events import event

ADD, PURCHASE, REFUND = "transaction.cart_add", "transaction.purchase_complete", "transaction.refund"
ORDER = {"order_id": "o-1", "amount": "10.00", "currency": "EUR"}
SETTLED = """
    SELECT (SELECT count(*) FROM temporal_outbox) = 0
       AND NOT EXISTS (SELECT FROM events e
                         LEFT JOIN log_cursors c ON c.shard = e.shard AND c.consumer = 'projector'
                        WHERE c.shard IS NULL
                           OR (e.generation, e.xid, e.sequence) > (c.generation, c.xid, c.sequence))
"""


class Shop:
    """Sends a customer's events, and reads the instances."""

    def __init__(self, client: httpx.AsyncClient, database: Database) -> None:
        self.client = client
        self.database = database

    async def send(self, *sent: dict[str, Any]) -> None:
        """Send events in one batch, and wait until Temporal has what they cause."""
        answer = await self.client.post("/events/batch", json={"events": sent})
        assert answer.json()["accepted"] == len(sent), answer.text
        async with self.database.connection() as connection, asyncio.timeout(60):
            while not await connection.fetchval(SETTLED):
                await asyncio.sleep(0.02)

    async def instances(self, workflow_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.client.get(f"/workflows/{workflow_id}/instances")).json()["data"]
        return found

    async def until(self, workflow_id: str, status: str, reason: str | None = None) -> str:
        """Wait until the workflow's only instance has this status and reason; returns its address."""
        async with asyncio.timeout(60):
            while True:
                found = await self.instances(workflow_id)
                if [(each["status"], each["reason"]) for each in found] == [(status, reason)]:
                    return f"/workflows/{workflow_id}/instances/{found[0]['instance_id']}"
                await asyncio.sleep(0.02)


def sent(event_type: str, properties: dict[str, Any] = ORDER) -> dict[str, Any]:
    return event(event_type=event_type, event_properties=properties)


@pytest.fixture
async def shop(two: list[httpx.AsyncClient], database: Database) -> Shop:
    """A customer who consents to marketing alone, and event types under contract."""
    document = user(consents={"marketing": True})
    assert (await two[0].post("/users", json=document)).status_code == 201
    for event_type in (ADD, PURCHASE, REFUND):
        declared = {"basis": "contract", "basis_reason": "Orders are kept under their contract."}
        assert (await two[1].put(f"/events/types/{event_type}", json=declared)).status_code == 200
    return Shop(two[0], database)


async def test_an_event_under_contract_starts_and_ends_a_service_and_starts_no_marketing(shop: Shop) -> None:
    await shop.send(sent(ADD, {"product_id": "shoe"}), sent(PURCHASE))
    await shop.until("post_purchase", "running")
    assert await shop.instances("cart_recovery") == []
    await shop.send(sent(REFUND))
    await shop.until("post_purchase", "completed", "refunded")


async def test_an_event_under_contract_does_not_end_marketing_and_with_consent_it_does(shop: Shop) -> None:
    execute = await shop.client.post("/workflows/cart_recovery/execute", json={"user_id": "u-1"})
    assert execute.status_code == 202
    await shop.send(sent(PURCHASE), sent(REFUND))
    await shop.until("post_purchase", "completed", "refunded")
    await shop.until("cart_recovery", "running")
    granted = await shop.client.put("/users/u-1/consents/data_collection", json={"granted": True})
    assert granted.status_code == 200
    await shop.send(sent(PURCHASE))
    await shop.until("cart_recovery", "completed", "purchased")
