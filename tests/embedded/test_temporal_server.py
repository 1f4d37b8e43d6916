import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client

from runtime.embedded.home import Home
from runtime.embedded.parts import StackError
from runtime.embedded.temporal_server import SEARCH_ATTRIBUTES, EmbeddedTemporal, find_temporal


async def test_workflows_and_addresses_survive_a_restart_and_a_kill(home: Home) -> None:
    async with EmbeddedTemporal(home) as temporal:
        client = await Client.connect(temporal.address)
        await client.start_workflow("unknown", id="onboarding/1", task_queue="none")
        addresses = (temporal.address, temporal.ui_url)
        await temporal.stop()
        await temporal.start()
        _kill(temporal.pid)
        assert await temporal.wait() == -signal.SIGKILL
        await temporal.start()
        assert (temporal.address, temporal.ui_url) == addresses
        description = await client.get_workflow_handle("onboarding/1").describe()
        assert description.id == "onboarding/1"


async def test_closed_workflows_are_kept_90_days_and_found_by_our_attributes(home: Home) -> None:
    async with EmbeddedTemporal(home, namespace="elsewhere") as temporal:
        client = await Client.connect(temporal.address, namespace="elsewhere")
        namespace = await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace="elsewhere")
        )
        retention = namespace.config.workflow_execution_retention_ttl.ToTimedelta()
        assert retention == timedelta(days=90)
        attributes = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace="elsewhere")
        )
        for name in SEARCH_ATTRIBUTES:
            kind = attributes.custom_attributes[name]
            assert kind == IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD


def test_a_configured_program_that_is_missing_is_named_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="PERENNIAL_TEMPORAL_CLI does not name a program"):
        find_temporal(tmp_path / "temporal")


def test_the_program_is_found_in_the_virtual_environment_without_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find_temporal().name == "temporal"


def _kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
