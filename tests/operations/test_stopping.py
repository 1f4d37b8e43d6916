"""A worker that is told to stop while it still waits for Temporal."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from runtime.embedded.ports import free_port
from tests.support.little_stack import LittleStack
from tests.support.processes import PerennialProcess


@pytest.mark.parametrize(
    ("why", "line"),
    [("away", "Temporal does not answer yet"), ("refusing", "Temporal did not take the system's workflows")],
)
async def test_it_ends_at_once_and_in_order(stack: LittleStack, tmp_path: Path, why: str, line: str) -> None:
    """Away: nobody listens there. Refusing: it has no such namespace."""
    elsewhere: dict[str, Any] = {
        "away": {"temporal_address": f"127.0.0.1:{free_port()}"},
        "refusing": {"temporal_namespace": "nowhere"},
    }[why]
    worker = PerennialProcess("worker", stack.settings.model_copy(update=elsewhere), tmp_path)
    ready = await worker.launch()
    try:
        async with asyncio.timeout(60):
            while line not in worker.log():
                await asyncio.sleep(0.05)
            assert await worker.stop() == 0, worker.log()
    finally:
        await worker.end()
    assert "stopped before Temporal had taken the worker" in worker.log()
    assert "Traceback" not in worker.log()
    assert not ready.exists()
