"""Child processes: each in a session of its own, ended with the supervisor or stopped within a time."""

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
    """A program to run: ``arguments[0]`` is its path; its output is appended to ``log_file``."""

    arguments: Sequence[str]
    log_file: Path
    environment: Mapping[str, str]
    user: str | None = None
    """The system user to become; for root alone."""
    death_signal: signal.Signals = signal.SIGKILL
    """The signal that Linux sends the child when the supervisor ends without a stop."""
    niceness: int = 0
    """From 0 to 19; a higher number leaves more of the processor to others."""


class ChildProcess:
    """A child process that was started; it may have ended since."""

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
        """None while the child runs; minus the signal's number where a signal ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the child, and those of its children that stayed in its process group."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def stop(self, *steps: tuple[signal.Signals, float]) -> int:
        """Send each step's signal and wait its seconds for the end, at last kill; return the exit code."""
        for number, seconds in steps:
            self.send(number)
            try:
                return await asyncio.wait_for(asyncio.shield(self._process.wait()), seconds)
            except TimeoutError:
                continue
        self.kill()
        return await self._process.wait()


async def run_to_end(command: Command) -> int:
    """Run a command that ends by itself and return its exit code; cancelling kills the command."""
    child = await ChildProcess.spawn(command)
    try:
        return await child.wait()
    finally:
        if child.exit_code is None:
            await child.stop()


def stop_processes(processes: Sequence[psutil.Process], *steps: tuple[signal.Signals, float]) -> None:
    """Do as :meth:`ChildProcess.stop` does, for processes that are not our children; blocks."""
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
    """Return the last line that is not blank, to explain a failure; empty where there is none."""
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
