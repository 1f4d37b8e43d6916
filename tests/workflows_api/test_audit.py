"""The audit log has each access to an instance."""

from __future__ import annotations

from typing import Any

from runtime.database import Database
from testing.people import Customer
from tests.support.http import Clients, assert_problem
from tests.workflows_api.conftest import SHORT, execute, until


async def rows_of(database: Database, request_id: str) -> list[dict[str, Any]]:
    async with database.connection() as connection:
        return [
            dict(row)
            for row in await connection.fetch(
                "SELECT action, role, user_id, subjects, outcome, details FROM audit_log WHERE request_id = $1",
                request_id,
            )
        ]


async def test_executes_reads_and_commands_are_audited(
    api: Clients, customer: Customer, database: Database, working: None
) -> None:
    api.operator.headers["X-Request-Id"] = "r-1"
    instance_id = (await execute(api, customer, parameters={"first_activity_within": "PT1H"})).json()[
        "instance_id"
    ]
    path = f"/workflows/onboarding/instances/{instance_id}"
    await until(api, path, current_step="wait_for_first_activity")
    place = {"workflow_id": "onboarding", "instance_id": instance_id, "masked": True}
    [row] = await rows_of(database, "r-1")
    assert row == {
        "action": "workflows.execute",
        "role": "operator",
        "user_id": customer.user_id,
        "subjects": [],
        "outcome": "done",
        "details": {**place, "replayed": False},
    }
    calls = {
        "read": ("GET", ""),
        "pause": ("POST", "/pause"),
        "resume": ("POST", "/resume"),
        "cancel": ("DELETE", ""),
    }
    for name, (method, rest) in calls.items():
        api.operator.headers["X-Request-Id"] = f"r-{name}"
        assert (await api.operator.request(method, path + rest)).is_success
        [row] = await rows_of(database, f"r-{name}")
        assert (row["action"], row["user_id"], row["details"]) == (f"instances.{name}", customer.user_id, place)
    api.operator.headers["X-Request-Id"] = "r-list"
    await api.operator.get("/workflows/onboarding/instances")
    [row] = await rows_of(database, "r-list")
    assert row["subjects"] == [customer.user_id]


async def test_a_repeated_answer_and_a_rejected_execute_are_audited(
    api: Clients, customer: Customer, database: Database, working: None
) -> None:
    for request_id in ("r-1", "r-2"):
        headers = {"Idempotency-Key": "once", "X-Request-Id": request_id}
        body = {"user_id": customer.user_id, "parameters": SHORT}
        await api.operator.post("/workflows/onboarding/execute", json=body, headers=headers)
        [row] = await rows_of(database, request_id)
        assert row["details"]["replayed"] == (request_id == "r-2")
    unknown = {"user_id": "u-0", "parameters": SHORT}
    answer = await api.operator.post(
        "/workflows/onboarding/execute", json=unknown, headers={"X-Request-Id": "r-3"}
    )
    assert_problem(answer, 422, "user_unknown")
    [row] = await rows_of(database, "r-3")
    assert (row["user_id"], row["outcome"]) == (None, "refused")
    assert row["details"] == {"code": "user_unknown", "masked": True}
