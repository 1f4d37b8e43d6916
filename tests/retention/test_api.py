"""Retention periods over HTTP, and dry runs."""

from __future__ import annotations

import pytest

from models.rules.retention import DATA_TYPES
from models.vocabulary import Role
from store.connection import Connection
from tests.api.conftest import NOWHERE
from tests.retention.filling import WHOLE, count, fill, mark_projected
from tests.support.builders import user
from tests.support.http import Clients, assert_problem, field_errors

DEFAULTS = {
    "profiles": None,
    "closed_accounts": 30,
    "events": 365,
    "transactions": None,
    "execution_logs": 90,
    "decisions": 90,
    "messages": 365,
    "webhook_deliveries": 90,
    "idempotency_answers": 1,
    "audit": 730,
}


async def test_every_data_type_has_its_default(api: Clients) -> None:
    listed = (await api.admin.get("/retention")).json()["data"]
    assert {each["data_type"]: each["days"] for each in listed} == DEFAULTS
    for name, days in DEFAULTS.items():
        one = (await api.admin.get(f"/retention/{name}")).json()
        assert (one["days"], one["default_days"], one["changed_by"]) == (days, days, None)
        assert one["description"]


async def test_a_period_is_set_and_the_change_is_audited(api: Clients, owner: Connection) -> None:
    answer = await api.admin.put("/retention/messages", json={"days": 30})
    assert answer.status_code == 200
    assert answer.json()["days"] == (await api.admin.get("/retention/messages")).json()["days"] == 30
    row = await owner.fetchrow("SELECT * FROM audit_log WHERE action = 'retention.change'")
    assert row is not None
    assert row["actor"] == answer.json()["changed_by"]
    assert row["request_id"] == answer.headers["x-request-id"]
    assert '"days_before": 365' in row["details"]


async def test_only_data_that_is_deleted_with_the_account_may_have_no_period(api: Clients) -> None:
    for name, declared in DATA_TYPES.items():
        answer = await api.admin.put(f"/retention/{name}", json={"days": None})
        if declared.unlimited:
            assert answer.json()["days"] is None
        else:
            assert field_errors(answer) == {("/days", "period_required")}


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_an_unknown_data_type_is_not_found(api: Clients, method: str) -> None:
    body = {"days": 3} if method == "PUT" else None
    assert_problem(await api.admin.request(method, "/retention/webhooks", json=body), 404, "data_type_not_found")
    assert_problem(await api.admin.get("/retention/runs/none"), 404, "retention_run_not_found")


@pytest.mark.parametrize("body", [{"days": 0}, {"days": 3651}, {"days": "3"}, {"days": 1.5}, {}, {"day": 3}])
async def test_an_invalid_period_is_rejected(api: Clients, body: dict[str, object]) -> None:
    assert (await api.admin.put("/retention/audit", json=body)).status_code == 422


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ANALYST, Role.INTEGRATOR])
async def test_only_an_admin_sees_and_sets_periods(api: Clients, role: Role) -> None:
    client = api.of(role)
    for path in ("/retention", "/retention/events", "/retention/runs", "/retention/runs/x"):
        assert_problem(await client.get(path), 403, "forbidden")
    assert_problem(await client.put("/retention/events", json={"days": 1}), 403, "forbidden")
    assert_problem(await client.post("/retention/run", json={"dry_run": True}), 403, "forbidden")


async def test_a_dry_run_counts_and_deletes_nothing(api: Clients, owner: Connection) -> None:
    await fill(owner, "old-", WHOLE, WHOLE.replace(day=20), 150)
    await mark_projected(owner)
    await api.admin.post("/users", json=user("u-closed", account_status="closed"))
    await api.admin.post("/users", json=user("u-open"))
    await owner.execute("UPDATE users SET closed_at = closed_at - interval '31 days'")
    answer = await api.admin.post("/retention/run", json={"dry_run": True})
    assert answer.status_code == 200
    found = {each["data_type"]: each for each in answer.json()["data"]}
    assert found.keys() == DEFAULTS.keys()
    parts = {(part["part"], part["action"]): part["rows"] for part in found["events"]["parts"]}
    assert parts == {
        (f"events_{WHOLE:%Y_%m}", "drop"): 150,
        ("event_ids", "delete"): 150,
        ("sessions", "delete"): 150,
    }
    assert found["closed_accounts"]["parts"] == [{"part": "users", "action": "erase", "rows": 1}]
    assert (found["profiles"]["older_than"], found["profiles"]["rows"]) == (None, 0)
    assert [await count(owner, table) for table in ("events", "event_ids", "sessions", "users")] == [
        150,
        150,
        150,
        2,
    ]
    assert await count(owner, "retention_runs") == 0
    assert await count(owner, "audit_log", "action = 'retention.delete'") == 0


async def test_a_dry_run_of_some_types_counts_those(api: Clients) -> None:
    answer = await api.admin.post("/retention/run", json={"dry_run": True, "data_types": ["audit", "events"]})
    assert [each["data_type"] for each in answer.json()["data"]] == ["events", "audit"]


async def test_an_unknown_data_type_in_a_run_is_a_422_with_its_pointer(api: Clients) -> None:
    for dry_run in (True, False):
        answer = await api.admin.post("/retention/run", json={"dry_run": dry_run, "data_types": ["events", 7]})
        assert field_errors(answer) == {("/data_types/1", "unknown_data_type")}


async def test_the_period_of_a_closed_account_begins_at_its_closure_not_at_its_last_change(
    api: Clients, owner: Connection
) -> None:
    await api.admin.post("/users", json=user("u-1"))
    assert await owner.fetchval("SELECT closed_at FROM users") is None
    await api.admin.patch("/users/u-1", json={"account_status": "closed"})
    closed = await owner.fetchval("SELECT closed_at FROM users")
    assert closed is not None
    await api.admin.patch("/users/u-1", json={"name": "Ada Byron"})
    assert await owner.fetchval("SELECT closed_at FROM users") == closed
    await api.admin.patch("/users/u-1", json={"account_status": "active"})
    assert await owner.fetchval("SELECT closed_at FROM users") is None


async def test_without_temporal_no_run_is_started(api: Clients, owner: Connection) -> None:
    assert NOWHERE  # the address of this application's Temporal
    assert_problem(await api.admin.post("/retention/run", json={}), 503, "temporal_unavailable")
    assert await count(owner, "retention_runs") == 0
