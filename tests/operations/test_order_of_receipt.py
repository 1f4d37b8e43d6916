"""An event that happened after a workflow's trigger counts, also if the API received it before the trigger."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from runtime.database import Database
from tests.support.builders import user

ORDER = {"order_id": "o-1", "amount": "10.00", "currency": "EUR"}
PURCHASE, REFUND = "transaction.purchase_complete", "transaction.refund"


async def _send(client: httpx.AsyncClient, event_type: str, seconds_ago: int, **properties: Any) -> None:
    event = {
        "event_id": uuid.uuid4().hex,
        "user_id": "u-1",
        "event_type": event_type,
        "timestamp": (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat(),
        "session_id": "s-1",
        "event_properties": properties,
    }
    assert (await client.post("/events", json=event)).status_code == 202


async def _instance(client: httpx.AsyncClient, workflow_id: str) -> dict[str, Any]:
    """The workflow's only instance, once it waits or has ended."""
    async with asyncio.timeout(60):
        while True:
            found = (await client.get(f"/workflows/{workflow_id}/instances")).json()["data"]
            if len(found) == 1 and (found[0]["current_step"] or found[0]["end_time"]):
                await asyncio.sleep(0.5)  # an exit in the log is found with the first wait
                instance: dict[str, Any] = (
                    await client.get(f"/workflows/{workflow_id}/instances/{found[0]['instance_id']}")
                ).json()
                return instance
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("workflow_id", "first", "trigger", "outcome"),
    [
        ("cart_recovery", (PURCHASE, 60, ORDER), ("transaction.cart_add", 300, {}), "purchased"),
        ("cart_recovery", (PURCHASE, 600, ORDER), ("transaction.cart_add", 300, {}), None),
        ("post_purchase", (REFUND, 60, ORDER), (PURCHASE, 300, ORDER), "refunded"),
        ("post_purchase", (REFUND, 60, {**ORDER, "order_id": "o-2"}), (PURCHASE, 300, ORDER), None),
        ("post_purchase", (REFUND, 600, ORDER), (PURCHASE, 300, ORDER), None),
        ("trial_conversion", (PURCHASE, 60, ORDER), ("subscription.trial_start", 300, {}), "converted"),
    ],
)
async def test_an_exit_that_was_received_before_its_trigger_counts_if_it_happened_after_it(
    two: list[httpx.AsyncClient],
    database: Database,
    workflow_id: str,
    first: tuple[str, int, dict[str, Any]],
    trigger: tuple[str, int, dict[str, Any]],
    outcome: str | None,
) -> None:
    await two[0].post("/users", json=user(consents={"data_collection": True, "marketing": True}))
    for event_type, seconds_ago, properties in (first, trigger):
        await _send(two[0], event_type, seconds_ago, **properties)
        async with database.connection() as connection, asyncio.timeout(60):
            while not await connection.fetchval(
                "SELECT bool_and(last_at >= now() - $1::interval) FROM sessions",
                timedelta(seconds=seconds_ago + 30),
            ):
                await asyncio.sleep(0.02)
    instance = await _instance(two[0], workflow_id)
    status = "running" if outcome is None else "completed"
    assert (instance["status"], instance["reason"]) == (status, outcome)
    await two[0].delete(f"/workflows/{workflow_id}/instances/{instance['instance_id']}")
