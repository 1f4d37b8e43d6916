"""A replayed instance over HTTP: its callbacks, and commands before the replay reaches Temporal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook
from temporalio.client import Client

from activities.outbox import Outbox
from models.temporal.system import CallbackDue, callback_id
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from testing.hooks import HookServer
from testing.mail import MailServer
from testing.people import Customer
from tests.support.http import Clients, assert_problem
from tests.workflows_api.conftest import SHORT, execute, until
from worker import build_worker, startables


@pytest.fixture
async def rejecting(
    settings: Settings, temporal: Client, database: Database, cipher: Cipher
) -> AsyncIterator[MailServer]:
    """A worker whose mail server rejects every recipient, until a test changes that."""
    async with MailServer() as mail:
        mail.refuse_recipients = "450 ada@example.com is away"
        mailing = settings.model_copy(update={"smtp_url": mail.url})
        async with build_worker(temporal, mailing, database, cipher):
            yield mail


@pytest.fixture
async def hooks() -> AsyncIterator[HookServer]:
    async with HookServer() as server:
        yield server


async def _failed(api: Clients, customer: Customer, **body: Any) -> tuple[str, dict[str, Any], str]:
    """The path of a failed instance, the answer to its execute, and its dead letter's path."""
    executed = await execute(api, customer, **{"max_attempts": 1, "parameters": SHORT, **body})
    path = executed.headers["location"]
    instance = await until(api, path, status="failed")
    [letter] = (await api.admin.get(f"/dead-letters?instance_id={instance['instance_id']}")).json()["data"]
    return path, executed.json(), f"/dead-letters/{letter['id']}"


async def _callback_ended(system: Client, instance_id: str, ending: int) -> None:
    """Wait until the callback of an end was delivered or given up."""
    due = CallbackDue(instance_id=instance_id, ending=ending)
    await system.get_workflow_handle(callback_id(due)).result()


async def test_each_end_has_one_callback_with_its_own_id_and_the_same_secret(
    api: Clients, customer: Customer, rejecting: MailServer, delivering: None, hooks: HookServer, system: Client
) -> None:
    path, executed, letter = await _failed(api, customer, callback_url=hooks.url)
    await hooks.after(lambda: len(hooks.received) == 1)
    await api.operator.post(f"{letter}/replay")  # fails again
    await hooks.after(lambda: len(hooks.received) == 2)
    rejecting.refuse_recipients = None
    await api.operator.post(f"{letter}/replay")
    await until(api, path, status="completed")
    for ending in range(3):
        await hooks.after(lambda ending=ending: len(hooks.received) > ending)  # type: ignore[misc]
        await _callback_ended(system, executed["instance_id"], ending)
    posted = [Webhook(executed["callback_secret"]).verify(hook.body, hook.headers) for hook in hooks.received]
    assert [each["status"] for each in posted] == ["failed", "failed", "completed"]
    assert [each["error"] is None for each in posted] == [False, False, True]
    assert [hook.headers["webhook-id"] for hook in hooks.received] == [
        f"msg_{executed['instance_id']}_{ending}" for ending in range(3)
    ]
    callback = (await until(api, path, status="completed"))["callback"]
    assert (callback["status"], callback["attempts"]) == ("delivered", 1), "the attempts are those of the last end"


async def test_the_callback_of_an_end_that_a_replay_undid_is_not_retried(
    api: Clients, customer: Customer, rejecting: MailServer, delivering: None, hooks: HookServer, system: Client
) -> None:
    hooks.answers = ["500 Oh"]
    path, executed, letter = await _failed(api, customer, callback_url=hooks.url)
    await hooks.after(lambda: len(hooks.received) == 1)
    rejecting.refuse_recipients = None
    await api.operator.post(f"{letter}/replay")
    await until(api, path, status="completed")
    await hooks.after(lambda: len(hooks.received) == 2)
    await _callback_ended(system, executed["instance_id"], 0)
    await _callback_ended(system, executed["instance_id"], 1)
    assert [json.loads(hook.body)["status"] for hook in hooks.received] == ["failed", "completed"]


async def test_a_replayed_instance_can_be_paused_and_cancelled_before_the_replay_reaches_temporal(
    api: Clients,
    customer: Customer,
    rejecting: MailServer,
    temporal: Client,
    database: Database,
    cipher: Cipher,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, _, letter = await _failed(api, customer, parameters={})
    rejecting.refuse_recipients = None
    assert (await api.operator.post(f"{letter}/replay")).status_code == 202
    with monkeypatch.context() as hurried:
        hurried.setattr("api.instances.RPC_TIMEOUT", timedelta(seconds=0.5))
        assert_problem(await api.operator.post(f"{path}/pause"), 503, "worker_unavailable")
    pausing = asyncio.create_task(api.operator.post(f"{path}/pause"))
    outbox = Outbox(database, cipher, temporal, temporal, settings.task_queue, startables())
    delivering_task = asyncio.create_task(outbox.deliver_while(lambda: True))
    paused = await pausing
    assert (paused.status_code, paused.json()["status"]) == (200, "paused")
    assert (await api.operator.delete(path)).status_code == 202
    await until(api, path, status="cancelled")
    delivering_task.cancel()
    await asyncio.gather(delivering_task, return_exceptions=True)
