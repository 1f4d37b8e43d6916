"""Callbacks report the end of an instance: signed, with one id, and to no private address."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from runtime.database import Database
from testing.hooks import HookServer
from tests.support.builders import user
from tests.support.http import field_errors
from tests.support.little_stack import LittleStack

SHORT = {"first_activity_within": "PT0.1S", "nudge_within": "PT0.1S"}


@pytest.fixture
async def hooks() -> AsyncIterator[HookServer]:
    async with HookServer() as server:
        yield server


async def _execute(client: httpx.AsyncClient, url: str, **headers: str) -> dict[str, Any]:
    await client.post("/users", json=user())
    answer = await client.post(
        "/workflows/onboarding/execute",
        json={"user_id": "u-1", "parameters": SHORT, "callback_url": url},
        headers=headers,
    )
    assert answer.status_code in (200, 202), answer.text
    executed: dict[str, Any] = answer.json()
    return executed


async def test_a_callback_posts_the_finished_instance_signed_with_a_secret_that_only_the_execute_shows(
    two: list[httpx.AsyncClient], hooks: HookServer, database: Database
) -> None:
    executed = await _execute(two[0], f"{hooks.url}/hooks/1?for=perennial", **{"Idempotency-Key": "k"})
    secret = executed["callback_secret"]
    assert secret.startswith("whsec_")
    await hooks.after(lambda: bool(hooks.received))
    [hook] = hooks.received
    assert hook.path == "/hooks/1?for=perennial"
    posted = Webhook(secret).verify(hook.body, hook.headers)
    path = f"/workflows/onboarding/instances/{executed['instance_id']}"
    shown = (await two[1].get(path)).json()
    for name in ("instance_id", "workflow_id", "user_id", "status", "results", "end_time", "retries"):
        assert posted[name] == shown[name]
        assert posted["data"][name] == shown[name]
    assert posted["status"] == "completed"
    assert (posted["type"], posted["timestamp"]) == ("workflow.instance_finished", shown["end_time"])
    assert executed["callback"] == {
        "status": "waiting",
        "attempts": 0,
        "last_status": None,
        "last_attempt_at": None,
    }
    assert "callback_secret" not in shown
    again = await _execute(two[1], f"{hooks.url}/hooks/1?for=perennial", **{"Idempotency-Key": "k"})
    assert again["callback_secret"] == secret
    async with database.connection() as connection:
        row = await connection.fetchrow("SELECT url, secret FROM callbacks")
    assert row is not None
    assert b"hooks" not in row["url"]
    assert secret.encode() not in row["secret"]


@pytest.mark.slow
async def test_a_callback_is_retried_with_the_same_id_and_a_new_signature(
    two: list[httpx.AsyncClient], hooks: HookServer
) -> None:
    hooks.answers = ["500 Oh"]
    executed = await _execute(two[0], hooks.url)
    await hooks.after(lambda: len(hooks.received) == 2)
    first, second = hooks.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert int(first.headers["webhook-timestamp"]) < int(second.headers["webhook-timestamp"])
    assert json.loads(first.body)["status"] == json.loads(second.body)["status"] == "completed"
    for hook in hooks.received:
        Webhook(executed["callback_secret"]).verify(hook.body, hook.headers)
    path = f"/workflows/onboarding/instances/{executed['instance_id']}"
    await hooks.after(lambda: len(hooks.received) == 2)
    while (callback := (await two[0].get(path)).json()["callback"])["status"] != "delivered":
        await asyncio.sleep(0.05)
    assert (callback["attempts"], callback["last_status"]) == (2, 204)


@pytest.mark.slow
async def test_410_stops_a_callback_and_a_redirect_is_not_followed(
    two: list[httpx.AsyncClient], hooks: HookServer, database: Database
) -> None:
    hooks.answers = ["307 Elsewhere\r\nlocation: /other", "410 Gone"]
    await _execute(two[0], hooks.url)
    await hooks.after(lambda: len(hooks.received) == 2)
    assert [hook.path for hook in hooks.received] == ["/", "/"]
    async with database.connection() as connection:
        while await connection.fetchval("SELECT status FROM callbacks") != "gone":
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_a_callback_reports_a_cancelled_instance(two: list[httpx.AsyncClient], hooks: HookServer) -> None:
    await two[0].post("/users", json=user())
    executed = await two[0].post(
        "/workflows/onboarding/execute", json={"user_id": "u-1", "callback_url": hooks.url}
    )
    assert (await two[0].delete(executed.headers["location"])).status_code == 202
    await hooks.after(lambda: bool(hooks.received))
    assert json.loads(hooks.received[0].body)["status"] == "cancelled"


async def test_a_callback_is_not_sent_for_a_revoked_key(
    two: list[httpx.AsyncClient], hooks: HookServer, database: Database
) -> None:
    """The key is revoked in one process, while its instance runs that it executed in another."""
    made = (await two[0].post("/keys", json={"name": "leaked", "role": "admin"})).json()
    await two[0].post("/users", json=user())
    executed = await two[0].post(
        "/workflows/onboarding/execute",
        json={"user_id": "u-1", "callback_url": hooks.url},
        headers={"authorization": f"Bearer {made['key']}"},
    )
    assert (await two[1].delete(f"/keys/{made['id']}")).status_code == 204
    assert (await two[0].delete(executed.headers["location"])).status_code == 202
    async with asyncio.timeout(60):
        while (await two[1].get(executed.headers["location"])).json()["callback"]["status"] != "failed":
            await asyncio.sleep(0.05)
    assert hooks.received == []


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://shop.example.com/", "https_required"),
        ("http://127.0.0.2/", "https_required"),
        ("http://localhost:8080/", "https_required"),
        ("ftp://shop.example.com/", "https_required"),
        ("https://10.0.0.1/", "address_not_allowed"),
        ("https://169.254.169.254/latest/meta-data", "address_not_allowed"),
        ("https://[::1]/", "address_not_allowed"),
        ("https://[::ffff:10.0.0.1]/", "address_not_allowed"),
        ("https://127.1/", "invalid_url"),
        ("https://[v1.fe]/", "invalid_url"),
        ("https://[fec0::1]/", "address_not_allowed"),
        ("https://192.0.0.192/", "address_not_allowed"),
        ("https://2130706433/", "invalid_url"),
        ("https://user:secret@shop.example.com/", "invalid_url"),
        ("https://shop.example.com/#there", "invalid_url"),
        ("https://shop.example.com:99999/", "invalid_url"),
        ("https://sh op.example.com/", "invalid_url"),
        ("//shop.example.com/", "https_required"),
        ("https:///hooks", "invalid_url"),
        ("", "invalid_url"),
        ("https://shop.example.com/" + "x" * 2048, "too_long"),
    ],
)
async def test_a_forbidden_callback_url_is_422_with_a_pointer(
    two: list[httpx.AsyncClient], url: str, code: str, stack: LittleStack
) -> None:
    await two[0].post("/users", json=user())
    answer = await two[0].post("/workflows/onboarding/execute", json={"user_id": "u-1", "callback_url": url})
    assert field_errors(answer) == {("/callback_url", code)}
