"""`POST /workflows/{id}/execute` and the catalogue."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from models.vocabulary import Role
from runtime.database import Database
from runtime.embedded.ports import free_port
from runtime.settings import Settings
from testing.people import Customer
from tests.support.http import Clients, assert_problem, bearer, field_errors, new_key
from tests.support.processes import PerennialProcess
from tests.workflows_api.conftest import SHORT, execute, until


async def test_the_catalogue_shows_each_workflow_with_the_schema_of_its_parameters(api: Clients) -> None:
    listed = (await api.analyst.get("/workflows")).json()["data"]
    onboarding = next(each for each in listed if each["workflow_id"] == "onboarding")
    assert onboarding["purpose"] is None
    assert (onboarding["max_attempts"], onboarding["enabled"]) == (30, True)
    waits = onboarding["parameters"]["properties"].values()
    assert all(wait["format"] == "duration" and wait["default"] for wait in waits)
    assert (await api.integrator.get("/workflows/onboarding")).json() == onboarding
    assert_problem(await api.admin.get("/workflows/unknown"), 404, "workflow_not_found")


async def test_an_executed_workflow_is_accepted_and_can_be_read_at_its_location(
    api: Clients, customer: Customer, working: None
) -> None:
    accepted = await execute(api, customer, parameters={"first_activity_within": "PT1H"})
    assert accepted.status_code == 202
    instance = accepted.json()
    path = f"/workflows/onboarding/instances/{instance['instance_id']}"
    assert accepted.headers["location"] == path
    assert instance["status"] == "running"
    assert instance["user_id"] == customer.user_id
    assert (instance["end_time"], instance["error"], instance["max_attempts"]) == (None, None, 30)
    assert instance["temporal"]["workflow_id"] == f"onboarding/{instance['instance_id']}"
    assert instance["temporal"]["run_id"] in instance["temporal"]["ui"]

    waiting = await until(api, path, current_step="wait_for_first_activity")
    assert waiting["start_time"] == instance["start_time"]
    assert waiting["parameters"] == {"first_activity_within": "PT1H", "nudge_within": "P4D"}
    assert waiting["results"]["send_welcome"]["status"] == "outbox"
    [attempt] = waiting["retries"]
    assert (attempt["step"], attempt["attempt"], attempt["error_type"]) == ("send_welcome", 1, None)
    assert waiting["stale"] is False
    assert (await api.operator.delete(path)).status_code == 202


async def test_a_caller_that_waits_gets_the_finished_instance(
    api: Clients, customer: Customer, working: None
) -> None:
    response = await api.operator.post(
        "/workflows/onboarding/execute",
        json={"user_id": customer.user_id, "parameters": SHORT},
        headers={"Prefer": "respond-async, Wait=15"},
    )
    assert response.status_code == 200
    assert response.headers["preference-applied"] == "wait"
    finished = response.json()
    assert finished["status"] == "completed"
    assert finished["end_time"] > finished["start_time"]
    assert finished["variables"] == {"nudged": True}
    assert finished["results"]["set_stage"] == {"stage": "at_risk", "changed": True}
    assert await customer.stage() == "at_risk"


async def test_a_caller_that_waits_too_short_gets_202(api: Clients, customer: Customer, working: None) -> None:
    response = await api.operator.post(
        "/workflows/onboarding/execute", json={"user_id": customer.user_id}, headers={"Prefer": "wait=1"}
    )
    assert response.status_code == 202
    assert response.json()["status"] == "running"


async def test_the_same_idempotency_key_starts_one_instance(
    api: Clients, customer: Customer, temporal: Client
) -> None:
    async def send() -> tuple[int, str]:
        response = await api.operator.post(
            "/workflows/onboarding/execute",
            json={"user_id": customer.user_id},
            headers={"Idempotency-Key": "order-17"},
        )
        return response.status_code, response.text

    answers = await asyncio.gather(*(send() for _ in range(5)))
    answers.append(await send())
    assert {status for status, _ in answers} == {202}
    assert len({text for _, text in answers}) == 1
    instances = (await api.operator.get(f"/workflows/onboarding/instances?user_id={customer.user_id}")).json()
    assert len(instances["data"]) == 1
    other = await api.operator.post(
        "/workflows/onboarding/execute",
        json={"user_id": customer.user_id, "max_attempts": 7},
        headers={"Idempotency-Key": "order-17"},
    )
    assert_problem(other, 422, "idempotency_key_reused")


async def test_an_idempotency_key_belongs_to_its_path(api: Clients, customer: Customer) -> None:
    sent: dict[str, Any] = {"json": {"user_id": customer.user_id}, "headers": {"Idempotency-Key": "order-18"}}
    assert (await api.operator.post("/workflows/onboarding/execute", **sent)).status_code == 202
    other = await api.operator.post("/workflows/trial_conversion/execute", **sent)
    assert_problem(other, 422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("parameters", "pointer", "code"),
    [
        ({"first_activity_within": "three days"}, "/parameters/first_activity_within", "invalid_duration"),
        ({"first_activity_within": "P1Y"}, "/parameters/first_activity_within", "invalid_duration"),
        ({"first_activity_within": "P"}, "/parameters/first_activity_within", "invalid_duration"),
        ({"first_activity_within": 3}, "/parameters/first_activity_within", "invalid_duration"),
        ({"first_activity_within": None}, "/parameters/first_activity_within", "invalid_duration"),
        ({"first_activity_within": "P99999D"}, "/parameters/first_activity_within", "out_of_range"),
        ({"first_activity_within": "P9999999999999999D"}, "/parameters/first_activity_within", "out_of_range"),
        ({"patience": "P1D"}, "/parameters/patience", "unknown_field"),
    ],
)
async def test_parameters_are_checked_against_the_catalogue(
    api: Clients, customer: Customer, parameters: dict[str, object], pointer: str, code: str
) -> None:
    response = await execute(api, customer, parameters=parameters)
    assert field_errors(response) == {(pointer, code)}


async def test_a_value_that_fits_no_type_of_its_parameter_has_one_error(api: Clients, customer: Customer) -> None:
    body = {"user_id": customer.user_id, "parameters": {"order_id": ["o-1"]}}
    answer = await api.operator.post("/workflows/post_purchase/execute", json=body)
    assert_problem(answer, 422, "validation_failed")
    assert [(each["pointer"], each["code"], each["message"]) for each in answer.json()["errors"]] == [
        ("/parameters/order_id", "invalid_type", "must be a string or must be an integer")
    ]


async def test_calendar_durations_are_rejected_with_an_alternative(api: Clients, customer: Customer) -> None:
    for given in ("P1M", "P1Y2M3D", "P0.5Y"):
        [error] = (await execute(api, customer, parameters={"nudge_within": given})).json()["errors"]
        assert "P30D" in error["message"]


async def test_invalid_executes_are_rejected(api: Clients, customer: Customer) -> None:
    url = "/workflows/onboarding/execute"
    assert_problem(await api.operator.post(url, json={"user_id": "unknown"}), 422, "user_unknown")
    assert_problem(
        await api.operator.post("/workflows/unknown/execute", json={"user_id": customer.user_id}),
        404,
        "workflow_not_found",
    )
    assert field_errors(await execute(api, customer, max_attempts=0)) == {("/max_attempts", "too_small")}
    assert field_errors(await execute(api, customer, parameters=[])) == {("/parameters", "invalid_type")}
    plain = await execute(api, customer, callback_url="http://shop.example.com/")
    assert field_errors(plain) == {("/callback_url", "https_required")}
    for role in (Role.ANALYST, Role.INTEGRATOR):
        assert_problem(await api.of(role).post(url, json={"user_id": customer.user_id}), 403, "forbidden")


async def test_an_erased_user_is_410(api: Clients, customer: Customer, database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE data_keys SET wrapped = NULL, destroyed_at = now() WHERE subject = $1", customer.user_id
        )
    assert_problem(await execute(api, customer), 410, "user_erased")


async def test_a_disabled_workflow_is_not_executed_and_settings_replace_max_attempts(
    api: Clients, customer: Customer
) -> None:
    assert_problem(await api.operator.patch("/workflows/onboarding", json={"enabled": False}), 403, "forbidden")
    changed = await api.admin.patch("/workflows/onboarding", json={"enabled": False, "max_attempts": 5})
    assert (changed.json()["enabled"], changed.json()["max_attempts"]) == (False, 5)
    assert_problem(await execute(api, customer), 409, "workflow_disabled")
    assert (await api.admin.patch("/workflows/onboarding", json={"enabled": True})).json()["max_attempts"] == 5
    assert (await execute(api, customer)).json()["max_attempts"] == 5
    assert (await execute(api, customer, max_attempts=9)).json()["max_attempts"] == 9
    back = await api.admin.patch("/workflows/onboarding", json={"max_attempts": None})
    assert (back.json()["max_attempts"], back.json()["enabled"]) == (30, True)
    nothing = await api.admin.patch("/workflows/onboarding", json={"enabled": None})
    assert field_errors(nothing) == {("/enabled", "required")}


async def test_a_waiting_answer_is_sent_when_the_process_stops(
    settings: Settings, temporal: Client, customer: Customer, database: Database, tmp_path: Path
) -> None:
    """There is no worker, so the instance doesn't finish."""
    port = free_port()
    served = settings.model_copy(
        update={"api_port": port, "temporal_address": temporal.service_client.config.target_host}
    )
    headers = bearer(await new_key(database, Role.OPERATOR)) | {"Prefer": "wait=30"}
    async with PerennialProcess("api", served, tmp_path) as process, httpx.AsyncClient(trust_env=False) as client:
        answer = asyncio.create_task(
            client.post(
                f"http://127.0.0.1:{port}/workflows/onboarding/execute",
                json={"user_id": customer.user_id},
                headers=headers,
                timeout=20,
            )
        )
        async with database.connection() as connection, asyncio.timeout(60):
            while not await connection.fetchval("SELECT count(*) FROM instances"):
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        assert await process.stop() == 0
        assert (await answer).status_code == 202
        assert (await answer).json()["status"] == "running"
