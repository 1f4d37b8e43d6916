"""An emptied or bought cart ends its recovery; before the first reminder it leaves the week's window open."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from runtime.database import Database
from tests.support.builders import user

ADD, REMOVE = "transaction.cart_add", "transaction.cart_remove"
PURCHASE = "transaction.purchase_complete"
ORDER = {"order_id": "o-1", "amount": "10.00", "currency": "EUR"}
LIST = "/workflows/cart_recovery/instances"


@dataclass
class Shop:
    """Sends the events of a customer, and reads the recoveries of the cart."""

    client: httpx.AsyncClient
    database: Database
    sent: int = field(default=0)

    async def send(self, *happened: tuple[str, dict[str, Any]], ago: timedelta = timedelta()) -> None:
        """Send events in one batch, with times in their order, and wait until they have taken effect."""
        began = datetime.now(UTC) - ago - timedelta(milliseconds=len(happened))
        events = [
            {
                "event_id": (event_id := uuid.uuid4().hex),
                "user_id": "u-1",
                "event_type": event_type,
                "timestamp": (began + timedelta(milliseconds=number)).isoformat(),
                "session_id": event_id,
                "event_properties": properties,
            }
            for number, (event_type, properties) in enumerate(happened)
        ]
        answer = await self.client.post("/events/batch", json={"events": events})
        assert answer.json()["accepted"] == len(events)
        self.sent += len(events)
        settled = "SELECT (SELECT count(*) FROM sessions) = $1 AND (SELECT count(*) FROM temporal_outbox) = 0"
        async with self.database.connection() as connection, asyncio.timeout(60):
            while not await connection.fetchval(settled, self.sent):
                await asyncio.sleep(0.02)

    async def recoveries(self, *expected: str | None) -> None:
        """Wait until the recoveries, oldest first, have these reasons; None: it waits."""
        found: list[str | None] = []
        try:
            async with asyncio.timeout(15):
                while True:
                    listed = (await self.client.get(LIST)).json()["data"]
                    listed.sort(key=lambda each: each["start_time"])
                    running = [each for each in listed if each["status"] == "running"]
                    found = [each["reason"] for each in listed]
                    ready = all(each["current_step"] == "wait_for_end_of_shopping" for each in running)
                    if found == list(expected) and ready and len(running) == expected.count(None):
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"{found} instead of {expected}")

    async def end(self) -> None:
        """Cancel what still runs."""
        for each in (await self.client.get(f"{LIST}?status=running")).json()["data"]:
            await self.client.delete(f"{LIST}/{each['instance_id']}")


@pytest.fixture
async def shop(two: list[httpx.AsyncClient], database: Database) -> Shop:
    await two[0].post("/users", json=user(consents={"data_collection": True, "marketing": True}))
    return Shop(two[0], database)


def shoe(**properties: Any) -> dict[str, Any]:
    return {"product_id": "shoe", **properties}


async def test_an_emptied_cart_ends_its_recovery_and_the_next_one_begins_a_new_one(shop: Shop) -> None:
    await shop.send((ADD, shoe(quantity=2)))
    await shop.recoveries(None)
    await shop.send((REMOVE, shoe()))
    await shop.send((ADD, {"product_id": "hat"}), (REMOVE, shoe()))
    await shop.recoveries(None)
    await shop.send((REMOVE, {"product_id": "hat"}))
    await shop.recoveries("emptied")
    await shop.send((ADD, shoe()))
    await shop.recoveries("emptied", None)
    await shop.end()


async def test_a_bought_cart_before_the_first_reminder_does_not_use_up_the_window(shop: Shop) -> None:
    await shop.send((ADD, shoe()))
    await shop.recoveries(None)
    await shop.send((PURCHASE, ORDER), (ADD, shoe()))
    await shop.recoveries("purchased", None)
    await shop.end()


async def test_an_item_that_is_put_back_keeps_the_recovery(shop: Shop) -> None:
    await shop.send((ADD, shoe()), (REMOVE, shoe()), (ADD, shoe()))
    await shop.recoveries(None)
    await shop.send((REMOVE, shoe()), (ADD, shoe()))
    await shop.recoveries(None)
    await shop.end()


async def test_a_cart_that_was_emptied_before_its_recovery_began_ends_it_at_once(shop: Shop) -> None:
    await shop.send((REMOVE, shoe()), ago=timedelta(seconds=30))
    await shop.send((ADD, shoe()), ago=timedelta(seconds=300))
    await shop.recoveries("emptied")
    await shop.send((ADD, shoe()))
    await shop.recoveries("emptied", None)
    await shop.end()


async def test_items_of_an_earlier_cart_keep_a_recovery(shop: Shop) -> None:
    await shop.send((ADD, {"product_id": "hat"}), ago=timedelta(days=2))
    await shop.send((ADD, shoe()))
    await shop.send((REMOVE, shoe()))
    await shop.recoveries(None)
    await shop.end()


async def test_after_a_reminder_the_window_stays_open_for_a_week(shop: Shop) -> None:
    await shop.send((ADD, shoe()))
    await shop.recoveries(None)
    async with shop.database.connection() as connection:
        await connection.execute(
            """INSERT INTO messages (message_id, instance_id, step, user_id, channel, template, status)
               SELECT 'm-1', instance_id, 'send_cart_reminder', 'u-1', 'email', 'cart_reminder', 'sent'
               FROM instances"""
        )
    await shop.send((REMOVE, shoe()))
    await shop.recoveries("emptied")
    await shop.send((ADD, shoe()))
    await asyncio.sleep(0.5)
    await shop.recoveries("emptied")


async def test_a_removal_ends_the_recovery_of_an_item_from_a_clock_that_is_ahead(shop: Shop) -> None:
    await shop.send((ADD, shoe()), ago=-timedelta(minutes=10))
    await shop.recoveries(None)
    await shop.send((REMOVE, shoe()))
    await shop.recoveries("emptied")


async def test_a_request_started_recovery_ends_when_the_cart_is_emptied(shop: Shop) -> None:
    await shop.send((ADD, shoe()), ago=timedelta(hours=3))
    await shop.client.post("/workflows/cart_recovery/execute", json={"user_id": "u-1"})
    await shop.recoveries(None)
    await shop.send((REMOVE, shoe()))
    await shop.recoveries("emptied")
