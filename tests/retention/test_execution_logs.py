"""Expired execution logs: their rows, and all of Temporal's histories of them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment

from activities.retention import Retention
from models.rules.retention import EXECUTION_LOGS, IDEMPOTENCY_ANSWERS, MESSAGES
from models.temporal.identity import temporal_workflow_id
from models.temporal.system import RETENTION_ID, PurgeRequest
from models.vocabulary import InstanceStatus
from privacy.audit_chain import CheckpointKey
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from store.connection import Connection
from store.retention import periods, runs
from testing.people import Customer
from testing.runs import Run, Runs
from tests.retention.filling import RUN, audited, begin_purge, count, results
from tests.support.http import Clients
from tests.support.jobs import scheduled
from tests.workflows_api.conftest import api, settings, system_working
from worker import keep_schedule

__all__ = ["api", "settings", "system_working"]

SHORT = {"first_activity_within": "PT0.1S", "nudge_within": "PT0.1S"}


@pytest.fixture
async def retention(database: Database, temporal: Client, cipher: Cipher) -> Retention:
    async with database.transaction() as connection:
        await runs.begin(connection, RUN, "a-test", [EXECUTION_LOGS])
    return Retention(database, None, temporal, CheckpointKey(cipher))


async def purge(retention: Retention, data_type: str = EXECUTION_LOGS) -> None:
    await ActivityEnvironment().run(retention.purge, PurgeRequest(run_id=RUN, data_type=data_type))


async def age(owner: Connection, run: Run, days: int) -> None:
    await owner.execute(
        "UPDATE instances SET end_time = end_time - make_interval(days => $2) WHERE instance_id = $1",
        run.instance_id,
        days,
    )


async def run_ids(temporal: Client, workflow_id: str) -> set[str]:
    return {each.run_id async for each in temporal.list_workflows(f"WorkflowId = '{workflow_id}'")}


async def is_known(temporal: Client, workflow_id: str, run_id: str) -> bool:
    try:
        await temporal.get_workflow_handle(workflow_id, run_id=run_id).describe()
    except RPCError as error:
        return error.status is not RPCStatusCode.NOT_FOUND
    return True


async def reset(temporal: Client, workflow_id: str, run_id: str) -> None:
    """Reset an instance to its beginning, which gives it one more history."""
    await temporal.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=temporal.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
            reason="a test",
            workflow_task_finish_event_id=4,
            request_id="reset-1",
        )
    )


async def test_an_expired_instance_is_deleted_with_the_histories_of_all_its_runs(
    runs: Runs, temporal: Client, owner: Connection, customer: Customer, retention: Retention
) -> None:
    old, young = [await runs.start(customer.user_id, parameters=SHORT) for _ in range(2)]
    for run in (old, young):
        await run.handle.result()
    workflow_id = temporal_workflow_id(old.workflow_id, old.instance_id)
    first = (await old.handle.describe()).run_id
    await reset(temporal, workflow_id, first)
    latest = temporal.get_workflow_handle(workflow_id)
    async with asyncio.timeout(30):
        while (await latest.describe()).status is WorkflowExecutionStatus.RUNNING:
            await asyncio.sleep(0.05)
        while len(known := await run_ids(temporal, workflow_id)) < 2:
            await asyncio.sleep(0.05)
    await age(owner, old, 91)
    await age(owner, young, 89)
    steps = await count(owner, "steps", "instance_id = $1", old.instance_id)
    await purge(retention)
    assert [await is_known(temporal, workflow_id, each) for each in known] == [False, False]
    for table in ("instances", "steps", "attempts"):
        assert await count(owner, table, "instance_id = $1", old.instance_id) == 0
        assert await count(owner, table, "instance_id = $1", young.instance_id) > 0
    assert (await young.handle.describe()).status is WorkflowExecutionStatus.COMPLETED
    found = await audited(owner, EXECUTION_LOGS)
    assert (found["instances", "deleted"], found["steps", "deleted"]) == (1, steps)
    assert found["temporal_histories", "deleted"] == 2


async def test_a_period_that_is_extended_meanwhile_keeps_rows_and_histories(
    runs: Runs, temporal: Client, database: Database, owner: Connection, customer: Customer, retention: Retention
) -> None:
    run = await runs.start(customer.user_id, parameters=SHORT)
    await run.handle.result()
    await age(owner, run, 91)
    purge = await begin_purge(database, EXECUTION_LOGS)
    async with database.transaction() as connection:
        await periods.change(connection, EXECUTION_LOGS, 365, actor="an-admin")
    await retention._purge_execution_logs(purge)
    assert await count(owner, "instances") == 1
    assert (await run.handle.describe()).status is WorkflowExecutionStatus.COMPLETED


async def test_an_instance_that_temporal_still_runs_stays(
    runs: Runs, temporal: Client, owner: Connection, customer: Customer, retention: Retention
) -> None:
    run = await runs.start(customer.user_id, still=True)
    await runs.until(run, "wait_for_first_activity")
    await owner.execute("UPDATE instances SET status = 'failed', end_time = now() - interval '100 days'")
    await purge(retention)
    assert await count(owner, "instances") == 1
    assert await results(owner) == {("instances", "held"): 1}
    assert (await run.handle.describe()).status is WorkflowExecutionStatus.RUNNING
    await run.handle.cancel()


async def test_rows_without_histories_are_deleted_too(
    owner: Connection, retention: Retention, customer: Customer
) -> None:
    await owner.execute(
        """INSERT INTO instances (instance_id, workflow_id, user_id, status, max_attempts, started_by, end_time)
           SELECT 'i-' || n, 'onboarding', $1, $2, 3, 'test', now() - interval '91 days'
             FROM generate_series(1, 120) AS numbers (n)""",
        customer.user_id,
        InstanceStatus.COMPLETED.value,
    )
    await purge(retention)
    assert await count(owner, "instances") == 0
    assert await audited(owner, EXECUTION_LOGS) == {("instances", "deleted"): 120}


async def test_dead_letters_and_callbacks_are_deleted_with_their_instances_and_trigger_windows_stay(
    owner: Connection, retention: Retention, customer: Customer
) -> None:
    for instance_id, days in (("i-old", 91), ("i-young", 89)):
        await owner.execute(
            """INSERT INTO instances
                   (instance_id, workflow_id, user_id, status, max_attempts, started_by, end_time)
               VALUES ($1, 'onboarding', $2, 'failed', 3, 'test', now() - make_interval(days => $3))""",
            instance_id,
            customer.user_id,
            days,
        )
        await owner.execute(
            """INSERT INTO dead_letters (dead_letter_id, workflow_id, instance_id, user_id, failed_step, run_id,
                                         error_type, attempts, status)
               SELECT $1 || step, 'onboarding', $1, $2, step, 'r-1', 'Refused', 1, 'open'
                 FROM unnest('{send_welcome,nudge}'::text[]) AS steps (step)""",
            instance_id,
            customer.user_id,
        )
        await owner.execute(
            "INSERT INTO callbacks (instance_id, user_id) VALUES ($1, $2)",
            instance_id,
            customer.user_id,
        )
        await owner.execute(
            "INSERT INTO trigger_windows (workflow_id, user_id, instance_id) VALUES ($1, $2, $1)",
            instance_id,
            customer.user_id,
        )
    await purge(retention)
    for table, rows in (("dead_letters", 2), ("callbacks", 1)):
        assert await count(owner, table, "instance_id = 'i-old'") == 0
        assert await count(owner, table, "instance_id = 'i-young'") == rows
    assert await count(owner, "trigger_windows") == 2
    found = await audited(owner, EXECUTION_LOGS)
    assert (found["dead_letters", "deleted"], found["callbacks", "deleted"]) == (2, 1)


async def test_messages_are_deleted_except_those_of_running_instances(
    owner: Connection, retention: Retention, customer: Customer
) -> None:
    await owner.execute(
        """INSERT INTO instances (instance_id, workflow_id, user_id, status, max_attempts, started_by, end_time)
           VALUES ('runs', 'onboarding', $1, 'running', 3, 'test', NULL),
                  ('ended', 'onboarding', $1, 'completed', 3, 'test', now())""",
        customer.user_id,
    )
    await owner.execute(
        """INSERT INTO messages (message_id, instance_id, step, user_id, channel, template, status, created_at)
           SELECT instance_id || age, instance_id, 'step' || age, $1, 'email', 't', 'sent',
                  now() - make_interval(days => age)
             FROM unnest('{runs,ended,gone}'::text[]) AS i (instance_id), unnest('{364,366}'::int[]) AS a (age)""",
        customer.user_id,
    )
    await owner.execute(
        """INSERT INTO idempotent_answers (key_id, idempotency_key, fingerprint, created_at)
           VALUES ('k', 'young', '', now()), ('k', 'old', '', now() - interval '25 hours')"""
    )
    await purge(retention, MESSAGES)
    await purge(retention, IDEMPOTENCY_ANSWERS)
    left = {row[0] for row in await owner.fetch("SELECT message_id FROM messages")}
    assert left == {"runs364", "runs366", "ended364", "gone364"}
    assert await owner.fetchval("SELECT idempotency_key FROM idempotent_answers") == "young"
    assert await audited(owner, MESSAGES) == {("messages", "deleted"): 2}


async def test_a_run_is_requested_followed_and_listed(
    api: Clients, system_working: None, owner: Connection
) -> None:
    await owner.execute(
        """INSERT INTO idempotent_answers (key_id, idempotency_key, fingerprint, created_at)
           SELECT 'k', n, '', now() - interval '2 days' FROM generate_series(1, 30) AS numbers (n)"""
    )
    answer = await api.admin.post("/retention/run", json={"dry_run": False})
    assert answer.status_code == 202, answer.text
    path = answer.headers["location"]
    assert path == f"/retention/runs/{answer.json()['run_id']}"
    async with asyncio.timeout(30):
        while (run := (await api.admin.get(path)).json())["status"] == "running":
            await asyncio.sleep(0.05)
    assert (run["status"], run["failed"]) == ("completed", [])
    done = {(each["part"], each["action"]): each["rows"] for each in run["results"]}
    assert done["idempotent_answers", "deleted"] == 30
    assert done["users", "due"] == 0
    assert (await api.admin.get("/retention/runs")).json()["data"][0]["run_id"] == run["run_id"]


async def test_temporal_keeps_histories_as_long_as_execution_logs_are_kept(api: Clients, temporal: Client) -> None:
    async def days() -> float:
        found = await temporal.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=temporal.namespace)
        )
        return found.config.workflow_execution_retention_ttl.ToTimedelta() / timedelta(days=1)

    for wanted in (45, 90):
        assert (await api.admin.put("/retention/execution_logs", json={"days": wanted})).status_code == 200
        assert await days() == wanted


async def test_the_schedule_runs_every_day(
    skipping: WorkflowEnvironment,
    system: Client,
    system_jobs: None,
    owner: Connection,
    worker_settings: Settings,
) -> None:
    for _ in range(2):  # the second finds it there
        await keep_schedule(system, worker_settings.task_queue, scheduled(RETENTION_ID))
    handle = system.get_schedule_handle(RETENTION_ID)
    try:
        described = await handle.describe()
        [first, second] = described.info.next_action_times[:2]
        assert second - first == timedelta(days=1)
        with skipping.with_time_skipping_disabled():
            for runs in (1, 2):  # the second gets the result of the first
                await handle.trigger()
                async with asyncio.timeout(30):
                    while await count(owner, "retention_runs", "finished_at IS NOT NULL AND failed = '{}'") < runs:
                        await asyncio.sleep(0.05)
                await asyncio.sleep(1)  # the run's id has the second of its start
    finally:
        await handle.delete()
    assert await owner.fetchval("SELECT DISTINCT requested_by FROM retention_runs") == "system:retention"
