"""A termination in Temporal, on a running stack."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from temporalio.client import Client

from models.temporal.identity import temporal_workflow_id
from runtime.database import Database
from runtime.temporal import EncryptedPayloads, data_converter
from tests.support.builders import user
from tests.support.little_stack import LittleStack


@pytest.mark.slow
async def test_a_termination_shows_in_the_list_within_a_minute(
    two: list[httpx.AsyncClient], stack: LittleStack, codec: EncryptedPayloads, database: Database
) -> None:
    await two[0].post("/users", json=user())
    path = (await two[0].post("/workflows/onboarding/execute", json={"user_id": "u-1"})).headers["location"]
    instance_id = path.rpartition("/")[2]
    client = await Client.connect(stack.temporal.address, data_converter=data_converter(codec))
    await client.get_workflow_handle(temporal_workflow_id("onboarding", instance_id)).terminate()
    async with asyncio.timeout(60), database.connection() as connection:
        while await connection.fetchval("SELECT end_time IS NULL FROM instances"):
            await asyncio.sleep(0.1)
    listed = (await two[0].get("/workflows/onboarding/instances")).json()["data"]
    assert [(each["instance_id"], each["status"]) for each in listed] == [(instance_id, "cancelled")]
