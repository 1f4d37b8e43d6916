"""Runs a whole stack as a process of its own."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
ANY_PORTS = ("--api-port", "0", "--temporal-port", "0", "--ui-port", "0")  # other stacks may run
REAL = ("-m", "cli", "dev")
_numbers = itertools.count()
STAND_IN = (str(Path(__file__).with_name("dev.py")),)


class RunningStack:
    """Starts a stack. ``with`` waits until it serves, and stops it."""

    def __init__(
        self,
        home: Path,
        *arguments: str,
        command: Sequence[str] = REAL,
        environment: Mapping[str, str] | None = None,
        root: Path = ROOT,
    ) -> None:
        self.home = home
        self._output = home.with_name(f"{home.name}.{next(_numbers)}.output")
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command, "--home", str(home), *(arguments or ANY_PORTS)],
                cwd=root,
                env={**os.environ, "PYTHONPATH": str(root), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def endpoints(self) -> dict[str, Any]:
        value = json.loads((self.home / "endpoints.json").read_text())
        assert isinstance(value, dict)
        return value

    def wait_until_up(self, seconds: float = 60) -> dict[str, Any]:
        self.wait_for((self.home / "endpoints.json").exists, seconds)
        return self.endpoints

    def wait_for(self, condition: Any, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def wait_until_back(self, name: str, old: int, seconds: float = 30) -> int:
        self.wait_for(lambda: self.endpoints["pids"].get(name) not in {None, old}, seconds)
        return int(self.endpoints["pids"][name])

    def family(self) -> list[psutil.Process]:
        """Return the supervisor and all its descendants."""
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal; return the exit code and the seconds until the end."""
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(20)
        return code, time.monotonic() - began

    def __enter__(self) -> "RunningStack":
        self.wait_until_up()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()


def allowed(seconds: float) -> float:
    """Return the time that an action may take: more on a machine with more work than processors."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def assert_gone(processes: Sequence[psutil.Process], within: float) -> None:
    """Assert that all end within so many seconds; a zombie has ended."""
    deadline = time.monotonic() + allowed(within)
    while (alive := [process for process in processes if _is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive == []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
