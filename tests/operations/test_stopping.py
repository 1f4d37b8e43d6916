"""A worker that is stopped while it still waits for Temporal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.little_stack import LittleStack
from tests.support.processes import PerennialProcess


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "value", "line"),
    [
        ("temporal_address", "127.0.0.1:1", "Temporal does not answer yet"),
        ("temporal_namespace", "nowhere", "Temporal has no such namespace yet"),
        ("temporal_system_namespace", "n" * 2000, "Temporal did not take the system's jobs yet"),
    ],
)
async def test_the_worker_stops_at_once_without_a_traceback(
    stack: LittleStack, tmp_path: Path, setting: str, value: str, line: str
) -> None:
    """Nothing listens on the port; Temporal has no such namespace; a namespace can't have such a long name."""
    elsewhere = {setting: value}
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
