"""Reads and commands of instances over HTTP."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from temporalio.client import Client, WorkflowExecutionStatus

from models.vocabulary import Role
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from store.connection import Connection
from testing.mail import MailServer
from testing.people import Customer
from tests.support.http import Clients, assert_problem
from tests.workflows_api.conftest import execute, until
from worker import build_worker


async def _waiting(api: Clients, customer: Customer) -> str:
    """The path of an instance at its first wait."""
    path: str = (await execute(api, customer)).headers["location"]
    await until(api, path, current_step="wait_for_first_activity")
    return path


async def test_pause_and_resume_show_at_once(api: Clients, customer: Customer, working: None) -> None:
    path = await _waiting(api, customer)
    paused = await api.operator.post(f"{path}/pause")
    assert (paused.status_code, paused.json()["status"]) == (200, "paused")
    assert (await api.analyst.get(path)).json()["status"] == "paused"
    again = await api.operator.post(f"{path}/pause")
    assert (again.status_code, again.json()["status"]) == (200, "paused")
    resumed = await api.operator.post(f"{path}/resume")
    assert (resumed.status_code, resumed.json()["status"]) == (200, "running")


async def test_a_cancelled_instance_ends_as_cancelled_and_rejects_commands(
    api: Clients, customer: Customer, working: None
) -> None:
    path = await _waiting(api, customer)
    assert (await api.operator.delete(path)).status_code == 202
    ended = await until(api, path, status="cancelled")
    assert ended["end_time"]
    assert ended["error"] is None
    assert ended["results"]["clean_up"] == {"messages_withdrawn": 0}
    assert_problem(await api.operator.delete(path), 409, "already_finished")
    for command in ("pause", "resume"):
        assert_problem(await api.operator.post(f"{path}/{command}"), 409, "already_finished")


async def test_an_instance_is_cancelled_although_the_data_key_of_its_person_is_damaged(
    api: Clients, customer: Customer, owner: Connection, working: None
) -> None:
    path = await _waiting(api, customer)
    key = await owner.fetchval("SELECT wrapped FROM data_keys WHERE subject = $1", customer.user_id)
    repair = "UPDATE data_keys SET wrapped = $2 WHERE subject = $1"
    await owner.execute(repair, customer.user_id, b"")
    try:
        assert_problem(await api.operator.get(path), 500, "data_unreadable")
        cancelled = await api.operator.delete(path)
        assert cancelled.status_code == 202
        assert not any(cancelled.json()["results"].values())
    finally:
        await owner.execute(repair, customer.user_id, key)
    await until(api, path, status="cancelled")


async def test_commands_during_a_cancellation_take_effect_or_are_409(
    api: Clients, customer: Customer, working: None
) -> None:
    """A command makes Temporal repeat the workflow task that ends the instance; the API retries it."""
    for _ in range(4):
        path = (await execute(api, customer)).headers["location"]
        sent = [api.operator.delete(path)]
        sent += [api.operator.post(f"{path}/{command}") for command in ("pause", "resume") * 3]
        assert {answer.status_code for answer in await asyncio.gather(*sent)} <= {200, 202, 409}
        await until(api, path, status="cancelled")


async def test_instances_are_listed_newest_first_in_pages_by_user_and_status(
    api: Clients, customer: Customer, working: None
) -> None:
    paths = [await _waiting(api, customer) for _ in range(3)]
    await api.operator.delete(paths[0])
    await until(api, paths[0], status="cancelled")
    url = f"/workflows/onboarding/instances?user_id={customer.user_id}"
    ids = [path.rpartition("/")[2] for path in paths]

    first = (await api.analyst.get(f"{url}&limit=2")).json()
    assert [each["instance_id"] for each in first["data"]] == [ids[2], ids[1]]
    rest = (await api.analyst.get(f"{url}&limit=2&cursor={first['pagination']['next_cursor']}")).json()
    assert [each["instance_id"] for each in rest["data"]] == [ids[0]]
    assert rest["pagination"]["next_cursor"] is None
    running = (await api.analyst.get(f"{url}&status=running")).json()["data"]
    assert {each["instance_id"] for each in running} == set(ids[1:])
    both = (await api.analyst.get(f"{url}&status=running&status=cancelled")).json()["data"]
    assert {each["instance_id"] for each in both} == set(ids)
    assert (await api.analyst.get("/workflows/onboarding/instances?user_id=other")).json()["data"] == []
    assert (await api.analyst.get(f"{url}&status=sleeping")).status_code == 422


async def test_an_instance_is_found_only_under_its_workflow(
    api: Clients, customer: Customer, working: None
) -> None:
    path = await _waiting(api, customer)
    missing = path.replace("onboarding", "unknown")
    assert_problem(await api.admin.get(missing), 404, "workflow_not_found")
    unknown = "/workflows/onboarding/instances/unknown"
    assert_problem(await api.admin.get(unknown), 404, "instance_not_found")
    assert_problem(await api.admin.delete(unknown), 404, "instance_not_found")
    assert_problem(await api.admin.post(f"{unknown}/pause"), 404, "instance_not_found")


async def test_integrators_read_no_instances_and_analysts_command_none(
    api: Clients, customer: Customer, working: None
) -> None:
    path = await _waiting(api, customer)
    assert_problem(await api.integrator.get(path), 403, "forbidden")
    assert_problem(await api.integrator.get("/workflows/onboarding/instances"), 403, "forbidden")
    for role in (Role.ANALYST, Role.INTEGRATOR):
        assert_problem(await api.of(role).delete(path), 403, "forbidden")
        assert_problem(await api.of(role).post(f"{path}/pause"), 403, "forbidden")
    assert (await api.analyst.get(path)).json()["status"] == "running"


async def test_error_texts_are_for_admins(
    api: Clients, customer: Customer, settings: Settings, temporal: Client, database: Database, cipher: Cipher
) -> None:
    async with MailServer() as mail:
        mail.refuse_recipients = f"450 {customer.email} is away"
        mailing = settings.model_copy(update={"smtp_url": mail.url})
        async with build_worker(temporal, mailing, database, cipher):
            path = (await execute(api, customer, max_attempts=1)).headers["location"]
            full = await until(api, path, status="failed")
    assert full["error"]["failed_step"] == "send_welcome"
    assert full["retries"][0]["error_type"] == full["error"]["error_type"]
    assert customer.email in full["error"]["error_message"]
    assert customer.email in full["retries"][0]["error_message"]
    masked = await api.operator.get(path)
    assert masked.json()["error"]["error_type"] == full["error"]["error_type"]
    assert masked.json()["error"]["error_message"] == "***"
    assert customer.email not in masked.text


async def test_a_terminated_run_shows_as_cancelled(
    api: Clients, customer: Customer, working: None, temporal: Client
) -> None:
    path = await _waiting(api, customer)
    await temporal.get_workflow_handle(f"onboarding/{path.rpartition('/')[2]}").terminate("from the Web UI")
    shown = (await api.analyst.get(path)).json()
    assert shown["status"] == "cancelled"
    assert shown["end_time"]


async def test_a_command_without_a_worker_says_so(api: Clients, customer: Customer) -> None:
    path = (await execute(api, customer)).headers["location"]
    problem = await api.operator.post(f"{path}/pause")
    assert_problem(problem, 503, "worker_unavailable")
    assert problem.headers["retry-after"]


@pytest.mark.parametrize("age", ["0 seconds", "1 minute"])
async def test_an_instance_that_never_reached_temporal_shows_as_failed(
    api: Clients, customer: Customer, database: Database, age: str
) -> None:
    async with database.connection() as connection:
        await connection.execute(
            """INSERT INTO instances
                   (instance_id, workflow_id, user_id, status, max_attempts, started_by, start_time)
               VALUES ('lost', 'onboarding', $1, 'running', 3, 'test', now() - $2::text::interval)""",
            customer.user_id,
            age,
        )
    shown = (await api.admin.get("/workflows/onboarding/instances/lost")).json()
    if age == "1 minute":
        assert shown["status"] == "failed"
        assert shown["error"]["error_type"] == "NotStarted"
    else:
        assert shown["status"] == "running"


@pytest.mark.parametrize("commands", [["pause"], ["pause", "delete"], ["delete", "pause"], ["pause", "resume"]])
async def test_commands_before_the_first_step_take_effect(
    api: Clients,
    customer: Customer,
    settings: Settings,
    temporal: Client,
    database: Database,
    cipher: Cipher,
    commands: list[str],
) -> None:
    """All of them reach the workflow with its start, since the worker starts afterwards."""
    path = (await execute(api, customer)).headers["location"]
    sent = []
    for command in commands:
        if command == "delete":
            sent.append(asyncio.create_task(api.operator.delete(path)))
        else:
            sent.append(asyncio.create_task(api.operator.post(f"{path}/{command}")))
        await asyncio.sleep(0.2)
    async with build_worker(temporal, settings, database, cipher):
        answers = await asyncio.gather(*sent)
        if "delete" in commands:
            await until(api, path, status="cancelled")
            return
        assert [answer.status_code for answer in answers] == [200] * len(commands)
        await until(api, path, status={"pause": "paused", "resume": "running"}[commands[-1]])
        assert (await api.operator.post(f"{path}/resume")).status_code == 200
        await until(api, path, current_step="wait_for_first_activity")


async def test_a_repeated_request_does_not_start_an_ended_instance_again(
    api: Clients, customer: Customer, working: None, temporal: Client, database: Database
) -> None:
    """The first answer was lost, and the instance was cancelled before the request was repeated."""

    async def send() -> httpx.Response:
        return await api.operator.post(
            "/workflows/onboarding/execute",
            json={"user_id": customer.user_id},
            headers={"Idempotency-Key": "again"},
        )

    path = (await send()).headers["location"]
    await until(api, path, current_step="wait_for_first_activity")
    assert (await api.operator.delete(path)).status_code == 202
    await until(api, path, status="cancelled")
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE idempotent_answers SET subject = NULL, status = NULL, headers = NULL, body = NULL"
        )
    again = await send()
    assert (again.status_code, again.json()["status"]) == (202, "cancelled")
    instance_id = path.rpartition("/")[2]
    described = await temporal.get_workflow_handle(f"onboarding/{instance_id}").describe()
    assert described.status is WorkflowExecutionStatus.CANCELED


async def test_a_request_that_is_repeated_after_an_opt_out_starts_nothing(
    api: Clients, customer: Customer, working: None, database: Database
) -> None:
    """The opt-out deletes the stored answer."""

    async def send() -> httpx.Response:
        return await api.operator.post(
            "/workflows/onboarding/execute",
            json={"user_id": customer.user_id},
            headers={"Idempotency-Key": "opted-out"},
        )

    first = await send()
    await until(api, first.headers["location"], current_step="wait_for_first_activity")
    patch = {"privacy_preferences": {"city": False}}
    assert (await api.admin.patch(f"/users/{customer.user_id}", json=patch)).status_code == 200
    again = await send()
    assert (again.status_code, again.headers["idempotency-replayed"]) == (202, "true")
    assert again.headers["location"] == first.headers["location"]
    assert again.json()["current_step"] == "wait_for_first_activity"
    listed = (await api.operator.get(f"/users/{customer.user_id}/instances")).json()["data"]
    assert len(listed) == 1
