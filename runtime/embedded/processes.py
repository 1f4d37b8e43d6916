"""Child processes, each in its own session. They end with the supervisor, or are stopped within a time limit."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_LAUNCHER = Path(__file__).with_name("launch.py")
_LOG_BYTES_KEPT = 16 * 1024 * 1024


@dataclass(frozen=True)
class Command:
    """A program to run. ``arguments[0]`` is its path. Its output is appended to ``log_file``."""

    arguments: Sequence[str]
    log_file: Path
    environment: Mapping[str, str]
    user: str | None = None
    """The system user that runs it; only root can set it."""
    death_signal: signal.Signals = signal.SIGKILL
    """The signal that Linux sends the child if the supervisor dies."""
    niceness: int = 0
    """0 to 19, as for `nice`."""


class ChildProcess:
    """A started child process; it may have ended since."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def spawn(cls, command: Command) -> ChildProcess:
        launch = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), str(int(command.death_signal))]
        with _open_log(command.log_file) as log:
            process = await asyncio.create_subprocess_exec(
                *launch,
                command.user or "-",
                str(command.niceness),
                *command.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(command.environment),
                start_new_session=True,  # Ctrl-C then reaches the supervisor alone
            )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid  # the launcher becomes the program, so the id is the program's

    @property
    def exit_code(self) -> int | None:
        """None while the child runs; the negative signal number if a signal ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the child's process group."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def stop(self, *steps: tuple[signal.Signals, float]) -> int:
        """For each step, send its signal and wait its seconds; then kill. Return the exit code."""
        for number, seconds in steps:
            self.send(number)
            try:
                return await asyncio.wait_for(asyncio.shield(self._process.wait()), seconds)
            except TimeoutError:
                continue
        self.kill()
        return await self._process.wait()


async def run_to_end(command: Command) -> int:
    """Run a command until it ends and return its exit code. Cancelling kills the command."""
    child = await ChildProcess.spawn(command)
    try:
        return await child.wait()
    finally:
        if child.exit_code is None:
            await child.stop()


def stop_processes(processes: Sequence[psutil.Process], *steps: tuple[signal.Signals, float]) -> None:
    """Like :meth:`ChildProcess.stop`, for processes that are not our children. Blocks."""
    alive = list(processes)
    for number, seconds in (*steps, (signal.SIGKILL, 5.0)):
        for process in alive:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        _, alive = psutil.wait_procs(alive, timeout=seconds)
        if not alive:
            return


def last_line(log_file: Path) -> str:
    """Return the last non-blank line, to explain a failure; empty if there is none."""
    try:
        with log_file.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 4096))
            lines = log.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextmanager
def _open_log(path: Path) -> Iterator[int]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LOG_BYTES_KEPT:
        path.replace(path.with_name(path.name + ".1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
