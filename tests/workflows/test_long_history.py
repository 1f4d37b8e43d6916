"""A history that grows long: the instance runs on, and operators are warned."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from temporalio.testing import WorkflowEnvironment

from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from runtime.temporal import EncryptedPayloads
from testing.mail import MailServer
from testing.people import Customer
from testing.runs import Runs
from testing.temporal import skipping_temporal
from tests.support.journeys import JOURNEYS
from tests.support.logs import logged
from worker import build_worker
from workflows.naming import LONG_HISTORY


@pytest.fixture(scope="module")
async def warning_temporal(codec: EncryptedPayloads) -> AsyncIterator[WorkflowEnvironment]:
    """A Temporal for which a history of sixty events is long."""
    async with skipping_temporal(codec, "limit.historyCount.suggestContinueAsNew=60") as environment:
        yield environment


async def test_a_journey_with_a_long_history_ends_in_its_run_and_warns_once_in_the_log_and_in_the_context(
    warning_temporal: WorkflowEnvironment,
    database: Database,
    cipher: Cipher,
    worker_settings: Settings,
    customer: Customer,
    mail: MailServer,
) -> None:
    runs = Runs(warning_temporal, database, cipher, worker_settings.task_queue, JOURNEYS)
    worker = build_worker(warning_temporal.client, worker_settings, database, cipher, lifecycles=JOURNEYS)
    with logged("perennial.workflows") as lines:
        async with worker:
            run = await runs.start(customer.user_id, "rounds", parameters={"rounds": 12})
            assert (await run.handle.result()).reason == "done"
            metadata = await run.handle.query("__temporal_workflow_metadata")
    context = await runs.context(run)
    assert context.run_id == run.handle.first_execution_run_id
    assert context.variables["long_history"] == LONG_HISTORY
    assert LONG_HISTORY in str(metadata)
    [warning] = lines()
    assert (warning["level"], warning["message"]) == ("warning", LONG_HISTORY)
    assert warning["temporal_workflow"]["workflow_id"] == run.handle.id
    assert len(mail.to(customer.email)) == 3


async def test_an_instance_with_a_short_history_gives_no_warning(runs: Runs, customer: Customer) -> None:
    with logged("perennial.workflows") as lines:
        run = await runs.start(customer.user_id)
        await run.handle.result()
    assert lines() == []
    assert "long_history" not in (await runs.context(run)).variables
