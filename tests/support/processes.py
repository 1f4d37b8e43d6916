"""API and worker processes for tests."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from types import TracebackType

from runtime.settings import Settings

ROOT = Path(__file__).parents[2]


def environment_of(settings: Settings) -> dict[str, str]:
    """Return an environment from which another process reads these settings."""
    given = settings.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    return {**os.environ, **{f"PERENNIAL_{name.upper()}": str(value) for name, value in given.items()}}


class PerennialProcess:
    """`perennial api` or `perennial worker` as a process, or a command of another module."""

    def __init__(self, command: str, settings: Settings, directory: Path, module: str = "cli") -> None:
        self._command = command
        self._module = module
        self._settings = settings
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process and wait until it serves."""
        ready = await self.launch()
        assert self._process is not None
        async with asyncio.timeout(60):
            while not ready.exists():
                assert self._process.returncode is None, self.log()
                await asyncio.sleep(0.02)

    async def launch(self) -> Path:
        """Start the process; return the file that it writes once it serves."""
        ready = self._directory / f"{self._command}-{os.urandom(4).hex()}.ready"
        settings = self._settings.model_copy(update={"ready_file": ready})
        with (self._directory / f"{self._command}.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                self._command,
                cwd=ROOT,
                env=environment_of(settings),
                stderr=log,
                stdout=log,
                start_new_session=True,
            )
        return ready

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)

    async def wait(self, within: float = 60.0) -> int:
        """Wait for the end and return the exit code."""
        assert self._process is not None
        async with asyncio.timeout(within):
            return await self._process.wait()

    async def end(self) -> None:
        """Kill the process unless it has ended."""
        if self._process is not None:
            if self._process.returncode is None:
                self.kill()
            await self._process.wait()

    async def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
        return await self._process.wait()

    def log(self) -> str:
        return (self._directory / f"{self._command}.log").read_text()

    async def __aenter__(self) -> PerennialProcess:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()
