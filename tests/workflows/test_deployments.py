"""Running instances after a deployment of code that has a bug, can't replay them, or keeps none in memory."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from temporalio.api.workflowservice.v1 import DescribeNamespaceResponse
from temporalio.client import WorkflowFailureError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.reconciler import LOST_AFTER, Reconciler
from models.instances import Problem
from models.temporal.system import ReconcileRequest
from models.vocabulary import InstanceStatus, ProblemKind
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from runtime.temporal import EncryptedPayloads
from store.instances.transitions import mark_problem
from testing.mail import MailServer
from testing.people import Customer
from testing.runs import Run, Runs
from testing.samples import parameters_of
from testing.temporal import FLAGGED_AFTER, skipping_temporal
from tests.support.journeys import JOURNEYS, After, Before, PatchDeprecated, Patched
from worker import build_worker, implementations
from workflows.catalog import catalog


async def test_a_bug_fails_its_instance_and_shows_its_place(
    journeys: Runs, customer: Customer, mail: MailServer
) -> None:
    run = await journeys.start(customer.user_id, "buggy")
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    context = await journeys.context(run)
    assert context.status is InstanceStatus.FAILED
    assert context.error is not None
    assert (context.error["error_type"], context.error["failed_step"]) == ("ZeroDivisionError", None)
    assert "journeys.py" in context.error["stack_trace"]
    assert len(mail.to(customer.email)) == 1


async def test_a_journey_that_cancels_itself_fails(journeys: Runs, customer: Customer, mail: MailServer) -> None:
    run = await journeys.start(customer.user_id, "self_cancelling")
    with pytest.raises(WorkflowFailureError):
        await run.handle.result()
    context = await journeys.context(run)
    assert (context.status, (context.error or {})["error_type"]) == (InstanceStatus.FAILED, "CancelledError")
    assert mail.received == []


@pytest.mark.slow
async def test_a_deployment_that_cannot_replay_instances_holds_them_until_its_roll_back(
    skipping: WorkflowEnvironment,
    database: Database,
    cipher: Cipher,
    worker_settings: Settings,
    customer: Customer,
    mail: MailServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The workflow task fails repeatedly, the instance stays, and nothing has an effect meanwhile.

    The reconciler finds it, and finds that it goes on.
    """
    client, queue = skipping.client, worker_settings.task_queue
    reconciler = Reconciler(database, cipher, client, queue)
    runs = Runs(skipping, database, cipher, queue, JOURNEYS)
    async with build_worker(client, worker_settings, database, cipher, lifecycles=[Before]):
        run = await runs.start(customer.user_id, "changing", still=True)
        await runs.until(run, "wait_for_never_comes")
    with caplog.at_level(logging.ERROR, "perennial"):
        async with build_worker(client, worker_settings, database, cipher, lifecycles=[After]):
            await runs.notify(run, "never.comes")
            await _until_a_task_has_failed(run)
            problem = await _until_problem(reconciler, runs, run, ProblemKind.INCOMPATIBLE_DEPLOY)
            assert await _until_problem(reconciler, runs, run, ProblemKind.INCOMPATIBLE_DEPLOY) == problem
    logged = {record.msg: vars(record) for record in caplog.records if record.name.startswith("perennial.")}
    for text in ("a workflow task failed", "an instance does not go on"):
        assert (logged[text]["instance_id"], logged[text]["problem"]) == (run.instance_id, "incompatible_deploy")
    held = await runs.context(run)
    assert (held.status, held.current_step) == (InstanceStatus.RUNNING, "wait_for_never_comes")
    assert len(mail.to(customer.email)) == 1
    other = await runs.start(customer.user_id, "changing", still=True)
    async with build_worker(client, worker_settings, database, cipher, lifecycles=[Before]):
        assert (await run.handle.result()).reason == "as it was"
        await runs.until(other, "wait_for_never_comes")
        assert len(mail.to(customer.email)) == 3
        assert (await runs.context(run)).status is InstanceStatus.COMPLETED
        async with database.connection() as connection:
            await connection.execute("UPDATE instances SET problem = 'incompatible_deploy', problem_since = now()")
        await _until_problem(reconciler, runs, other, None)
    await other.handle.terminate()


@pytest.mark.slow
async def test_a_temporal_that_lists_no_failing_runs_is_asked_for_each(
    codec: EncryptedPayloads,
    database: Database,
    cipher: Cipher,
    worker_settings: Settings,
    customer: Customer,
    mail: MailServer,
) -> None:
    """As before Temporal 1.30. The reconciler looks at the attempt of each run's workflow task."""
    old_server = DescribeNamespaceResponse()  # without the capability
    async with skipping_temporal(codec, f"{FLAGGED_AFTER}=0") as environment:
        client = environment.client
        runs = Runs(environment, database, cipher, worker_settings.task_queue, JOURNEYS)
        async with build_worker(client, worker_settings, database, cipher, lifecycles=[Before]):
            run = await runs.start(customer.user_id, "changing", still=True)
            await runs.until(run, "wait_for_never_comes")
        reconciler = Reconciler(database, cipher, client)
        request = ReconcileRequest(watching_since=datetime.now(UTC) - LOST_AFTER)
        async with (
            build_worker(client, worker_settings, database, cipher, lifecycles=[After]),
            asyncio.timeout(90),  # the third attempt begins after twice the time-out of a workflow task
        ):
            await runs.notify(run, "never.comes")
            while (await runs.context(run)).problem is None:
                await reconciler.end_unrecorded(request)
                await reconciler.problems.compare(old_server)
                await asyncio.sleep(0.2)
        described = (await run.handle.describe()).raw_info.search_attributes.indexed_fields
        assert "TemporalReportedProblems" not in described
        other = await runs.start(customer.user_id, "changing", still=True)
        async with build_worker(client, worker_settings, database, cipher, lifecycles=[Before]):
            await runs.until(other, "wait_for_never_comes")
            assert (await run.handle.result()).reason == "as it was"
            async with database.connection() as connection:
                await mark_problem(connection, ProblemKind.INCOMPATIBLE_DEPLOY, [other.instance_id])
            reconciler.problems.note(other.instance_id, failing=True)
            await reconciler.problems.compare(old_server)
            assert (await runs.context(other)).problem is None


async def test_a_patched_change_holds_for_new_instances_alone(
    skipping: WorkflowEnvironment,
    database: Database,
    cipher: Cipher,
    worker_settings: Settings,
    customer: Customer,
    mail: MailServer,
) -> None:
    """Three deployments, as in the guide: before, patched, and deprecated once no old instance is left."""
    runs = Runs(skipping, database, cipher, worker_settings.task_queue, JOURNEYS)

    def deployed(lifecycle: type[Any]) -> Worker:
        return build_worker(skipping.client, worker_settings, database, cipher, lifecycles=[lifecycle])

    async with deployed(Before):
        old = await runs.start(customer.user_id, "changing", still=True)
        await runs.until(old, "wait_for_never_comes")
    async with deployed(Patched):
        await runs.notify(old, "never.comes")
        assert (await old.handle.result()).reason == "as it was"
        assert len(mail.to(customer.email)) == 2
        new = await runs.start(customer.user_id, "changing", still=True)
        await runs.until(new, "wait_for_never_comes")
        assert len(mail.to(customer.email)) == 4
    async with deployed(PatchDeprecated):
        await runs.notify(new, "never.comes")
        assert (await new.handle.result()).reason == "deprecated"
    assert len(mail.to(customer.email)) == 5


async def _until_problem(reconciler: Reconciler, runs: Runs, run: Run, kind: ProblemKind | None) -> Problem | None:
    """The stored problem, once a comparison has found it. Temporal flags a run after the second failure."""
    async with asyncio.timeout(60):
        while True:
            await reconciler.advance(ReconcileRequest())
            problem = (await runs.context(run)).problem
            if (problem.kind if problem else None) is kind:
                return problem
            await asyncio.sleep(0.2)


async def _until_a_task_has_failed(run: Run) -> None:
    async with asyncio.timeout(60):
        while True:
            history = await run.handle.fetch_history()
            failures = [each for each in history.events if each.HasField("workflow_task_failed_event_attributes")]
            if failures:
                return
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("workflow_id", [*catalog(), "rounds"])
async def test_every_workflow_completes_if_every_task_is_a_replay(
    skipping: WorkflowEnvironment,
    database: Database,
    cipher: Cipher,
    worker_settings: Settings,
    customer: Customer,
    workflow_id: str,
) -> None:
    """Without a cache each workflow task replays the whole history: code that isn't deterministic fails."""
    lifecycles: list[type[Any]] = [*JOURNEYS, *implementations()]
    worker = build_worker(
        skipping.client, worker_settings, database, cipher, lifecycles=lifecycles, workflow_cache=0
    )
    async with worker:
        runs = Runs(skipping, database, cipher, worker_settings.task_queue, JOURNEYS)
        run = await runs.start(
            customer.user_id, workflow_id, parameters=parameters_of(runs.definitions[workflow_id])
        )
        await run.handle.result()
        history = await run.handle.fetch_history()
    assert not [each for each in history.events if each.HasField("workflow_task_failed_event_attributes")]
