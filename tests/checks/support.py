"""Processes that end by themselves, and their settings."""

from __future__ import annotations

from pathlib import Path

from privacy.keyring import KeyFile
from runtime.embedded.ports import free_port
from runtime.settings import Settings
from tests.support.processes import PerennialProcess


async def ended(command: str, settings: Settings, directory: Path, within: float = 40) -> tuple[int, str]:
    """Start a process that must end by itself; return its exit code and its last line."""
    process = PerennialProcess(command, settings, directory)
    try:
        await process.launch()
        code = await process.wait(within)
    finally:
        await process.end()
    return code, process.log().rstrip().rpartition("\n")[2]


def api_settings(database: Settings, directory: Path, temporal: str = "127.0.0.1:1") -> Settings:
    """Settings of an API or worker on a database; the Temporal of the default address doesn't exist."""
    key_file = KeyFile(directory / "keys.json")
    key_file.create()
    more = {"environment": "embedded", "key_file": key_file.path, "temporal_address": temporal}
    return database.model_copy(update={**more, "api_port": free_port(), "task_queue": "checks"})
