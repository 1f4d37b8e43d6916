"""The needs of Temporal, on real servers that lack something."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from checks import temporal as needs
from models.temporal.identity import SEARCH_ATTRIBUTES
from runtime.provisioning import in_namespace
from runtime.settings import Settings
from tests.checks.support import api_settings, ended
from tests.support.jobs import delete_schedule, scheduled
from worker import keep_schedule


@pytest.fixture
async def bare() -> AsyncIterator[Client]:
    """A Temporal without our search attributes."""
    binary = shutil.which("temporal") or shutil.which("temporal", path=str(Path(sys.executable).parent))
    async with await WorkflowEnvironment.start_local(dev_server_existing_path=binary) as environment:
        yield environment.client


async def add_attributes(client: Client, **kinds: IndexedValueType.ValueType) -> None:
    await client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(namespace=client.namespace, search_attributes=kinds)
    )


@pytest.mark.slow
async def test_api_and_worker_name_the_missing_search_attributes(
    bare: Client, database_url: str, tmp_path: Path
) -> None:
    # PerennialUser is there, with the wrong type.
    await add_attributes(
        bare,
        PerennialUser=IndexedValueType.INDEXED_VALUE_TYPE_INT,
        PerennialStep=IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    )
    address = bare.service_client.config.target_host
    settings = api_settings(Settings(database_url=database_url), tmp_path, address)
    said = (
        "perennial: Temporal's namespace default lacks PerennialUser, PerennialWorkflow, PerennialStatus as "
        "search attributes; Perennial needs PerennialUser, PerennialWorkflow, PerennialStep, PerennialStatus, "
        "each a Keyword."
    )
    results = await asyncio.gather(*(ended(command, settings, tmp_path) for command in ("api", "worker")))
    assert results == [(1, said), (1, said)]


@pytest.mark.slow
async def test_a_missing_namespace_is_named(bare: Client, database_url: str, tmp_path: Path) -> None:
    settings = api_settings(
        Settings(database_url=database_url, temporal_namespace="shop"),
        tmp_path,
        bare.service_client.config.target_host,
    )
    assert await ended("worker", settings, tmp_path) == (
        1,
        "perennial: Temporal has no namespace shop; Perennial needs the one that PERENNIAL_TEMPORAL_NAMESPACE "
        "names.",
    )


async def test_a_namespace_with_its_attributes_passes_and_an_older_server_is_named(bare: Client) -> None:
    assert await needs.server(bare) == []
    [unmet] = await needs.server(bare, (99, 1))
    assert unmet.code == "temporal_version"
    assert unmet.sentence.endswith("; Perennial needs 99.1 or newer.")
    [unmet] = await needs.namespace(bare)
    assert unmet.code == "temporal_search_attributes"
    await add_attributes(
        bare, **{each.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD for each in SEARCH_ATTRIBUTES}
    )
    async with asyncio.timeout(20):
        while await needs.namespace(bare):
            await asyncio.sleep(0.1)
    [unmet] = await needs.namespace(in_namespace(bare, "elsewhere"))
    assert unmet.code == "temporal_namespace"


@pytest.mark.slow
@pytest.mark.parametrize("off_by", [-90.0, 90.0])
async def test_the_clock_of_temporal_is_compared_by_a_schedule(temporal: Client, off_by: float) -> None:
    """A schedule that was written again tells the time of the second writing."""
    job = scheduled("system/partitions")

    async def write(clock: Callable[[], float]) -> float:
        since = clock()
        await keep_schedule(temporal, "checks", job)
        return await needs.skew(temporal, job.workflow_id, since, clock)

    try:
        assert await write(time.time) < 1
        await asyncio.sleep(2)
        assert await write(time.time) < 1
        assert 88 < await write(lambda: time.time() + off_by) <= 90
    finally:
        await delete_schedule(temporal, job.workflow_id)
