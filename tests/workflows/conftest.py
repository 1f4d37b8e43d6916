"""A worker with the real workflows and those of the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment

from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from testing.runs import Runs
from tests.support.journeys import JOURNEYS
from worker import build_worker, implementations


@pytest.fixture
async def journeys(
    skipping: WorkflowEnvironment, database: Database, cipher: Cipher, worker_settings: Settings
) -> AsyncIterator[Runs]:
    """Starts real and test workflows on a worker for this test."""
    lifecycles: list[type[Any]] = [*JOURNEYS, *implementations()]
    async with build_worker(skipping.client, worker_settings, database, cipher, lifecycles=lifecycles):
        yield Runs(skipping, database, cipher, worker_settings.task_queue, JOURNEYS)
