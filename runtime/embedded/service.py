"""The API and the workers: processes of ours that say when they serve."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from runtime.embedded.errors import PartFailedError
from runtime.embedded.home import Home
from runtime.embedded.processes import ChildProcess, Command, last_line

_READY_SECONDS = 60.0
_POLL_SECONDS = 0.02
_PROBE_SECONDS = 0.1

Probe = Callable[[], Awaitable[bool]]


class Service:
    """One of our own processes; it serves once it has written its ready file and ``probe`` agrees.

    Every start has a ready file of its own, so that a file of an earlier one is not taken for this one's.
    """

    def __init__(
        self,
        name: str,
        home: Home,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        probe: Probe | None = None,
        niceness: int = 0,
    ) -> None:
        self._name = name
        self._home = home
        self._arguments = arguments
        self._environment = environment
        self._probe = probe
        self._niceness = niceness
        self._starts = 0
        self._process: ChildProcess | None = None

    @property
    def name(self) -> str:
        """A word for messages and file names."""
        return self._name

    @property
    def log_file(self) -> Path:
        """Where the process's output goes."""
        return self._home.log_file(self._name)

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        running = self._process is not None and self._process.exit_code is None
        return self._process.pid if self._process and running else None

    async def start(self) -> None:
        """Start it and wait until it serves. Raises :class:`PartFailedError`, leaving no process behind."""
        self._starts += 1
        ready_file = self._home.run / f"{self._name}.{self._starts}.ready"
        ready_file.unlink(missing_ok=True)
        environment = {**self._environment, "PERENNIAL_READY_FILE": str(ready_file)}
        command = Command(self._arguments, self.log_file, environment, niceness=self._niceness)
        self._process = await ChildProcess.spawn(command)
        try:
            await self._wait_until_ready(self._process, ready_file)
        except BaseException:
            await self.stop(grace=0)
            raise
        finally:
            ready_file.unlink(missing_ok=True)

    async def wait(self) -> int:
        """Wait until it has ended; gives the exit code."""
        if self._process is None:
            raise RuntimeError(f"{self._name} was not started yet.")
        return await self._process.wait()

    async def stop(self, grace: float) -> None:
        """Ask it to end (SIGTERM) and kill it after ``grace`` seconds."""
        if self._process is not None:
            await self._process.stop((signal.SIGTERM, grace))
            self._process = None

    def kill(self) -> None:
        """End it this instant."""
        if self._process:
            self._process.kill()

    async def _wait_until_ready(self, process: ChildProcess, ready_file: Path) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while process.exit_code is None and not ready_file.exists():  # noqa: ASYNC240 - takes microseconds
            if time.monotonic() > deadline:
                raise PartFailedError(
                    f"The {self._name} did not serve within {_READY_SECONDS:.0f} s; see {self.log_file}.",
                    self.log_file,
                )
            await asyncio.sleep(_POLL_SECONDS)
        # Not healthy yet means that something it depends on is away: starting it again would not help.
        while process.exit_code is None and self._probe and not await self._probe():  # noqa: ASYNC110
            await asyncio.sleep(_PROBE_SECONDS)
        if process.exit_code is not None:
            reason = last_line(self.log_file) or "it said nothing"
            raise PartFailedError(
                f"The {self._name} ended with exit code {process.exit_code} before it served ({reason}); "
                f"see {self.log_file}.",
                self.log_file,
            )
