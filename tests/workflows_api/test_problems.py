"""Instances that don't go on, over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from temporalio.client import Client

from activities.reconciler import Reconciler
from checks.workers import Workers
from models.temporal.system import ReconcileRequest
from models.vocabulary import ProblemKind
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from store.connection import Connection
from store.instances.transitions import mark_problem
from testing.people import Customer
from tests.support.http import Clients, assert_problem
from tests.workflows_api.conftest import execute, until
from worker import build_worker

LIST = "/workflows/onboarding/instances"


async def _waiting(api: Clients, customer: Customer) -> str:
    """The path of an instance at its first wait."""
    path: str = (await execute(api, customer)).headers["location"]
    await until(api, path, current_step="wait_for_first_activity")
    return path


async def _shown(api: Clients, problem: str) -> list[str]:
    """The instances with a problem, by their paths."""
    data = (await api.analyst.get(LIST, params={"problem": problem})).json()["data"]
    return [f"{LIST}/{each['instance_id']}" for each in data]


async def test_an_instance_without_a_worker_shows_it_since_the_last_poll(
    api: Clients,
    customer: Customer,
    settings: Settings,
    temporal: Client,
    database: Database,
    cipher: Cipher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("checks.workers.FRESH_SECONDS", 0)
    began = datetime.now(UTC)
    async with build_worker(temporal, settings, database, cipher):
        path = await _waiting(api, customer)
        instance = (await api.analyst.get(path)).json()
        assert (instance["problem"], instance["waiting_until"] is None) == (None, False)
        assert await _shown(api, "no_worker") == []
    monkeypatch.setattr("checks.workers.POLLER_SILENT", timedelta())  # the last poll is some seconds old
    problem = (await api.analyst.get(path)).json()["problem"]
    assert problem["kind"] == "no_worker"
    assert began <= datetime.fromisoformat(problem["since"]) <= datetime.now(UTC)
    assert await _shown(api, "no_worker") == [path]
    assert (await api.analyst.get(LIST)).json()["data"][0]["problem"] == problem
    assert await _shown(api, "incompatible_deploy") == []
    assert_problem(await api.analyst.get(LIST, params={"problem": "tired"}), 422, "validation_failed")
    assert await Workers(settings, None).silent_since() is None  # without a Temporal nobody knows


async def test_an_instance_on_a_task_queue_that_nobody_polls_any_more_is_found(
    api: Clients,
    customer: Customer,
    settings: Settings,
    temporal: Client,
    database: Database,
    cipher: Cipher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The installation's task queue was renamed, and its workers poll the new one."""
    async with build_worker(temporal, settings, database, cipher):
        path = await _waiting(api, customer)
        renamed = Reconciler(database, cipher, temporal, "renamed")
        await renamed.advance(ReconcileRequest())
        assert await _shown(api, "no_worker") == []
    monkeypatch.setattr("activities.problems.POLLER_SILENT", timedelta())
    await renamed.advance(ReconcileRequest())
    assert await _shown(api, "no_worker") == [path]
    monkeypatch.undo()
    await renamed.advance(ReconcileRequest())
    assert await _shown(api, "no_worker") == []


async def test_a_problem_is_stored_for_exactly_the_instances_that_have_it_and_keeps_its_time(
    api: Clients, customer: Customer, database: Database, owner: Connection, working: None
) -> None:
    paths = [await _waiting(api, customer) for _ in range(2)]
    first, second = [path.rpartition("/")[2] for path in paths]
    kind = ProblemKind.NO_WORKER
    async with database.connection() as connection:
        assert len(await mark_problem(connection, kind, [first, second])) == 2
        await owner.execute("UPDATE instances SET problem_since = '2026-01-01T00:00:00Z'")
        assert await mark_problem(connection, kind, [second]) == []
    assert await _shown(api, "no_worker") == [paths[1]]
    shown = (await api.admin.get(paths[1])).json()["problem"]
    assert shown == {"kind": "no_worker", "since": "2026-01-01T00:00:00Z"}
    assert (await api.admin.get(paths[0])).json()["problem"] is None
    await api.operator.delete(paths[1])
    assert (await until(api, paths[1], status="cancelled"))["problem"] is None
