"""First runs on a machine without Postgres's system user; test_machine.py runs it with an /etc of its own.

python -m tests.embedded.first_run servers ROUNDS COUNT | stacks ROUNDS COUNT | killed
"""

import asyncio
import os
import pwd
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from runtime.embedded.home import Home
from runtime.embedded.machine import SYSTEM_USER
from runtime.embedded.parts import StackError
from runtime.embedded.postgres import EmbeddedPostgres
from tests.embedded.directories import temporary_directory
from tests.embedded.running import STAND_IN, RunningStack

NEW = {name: Path("/etc", name).read_bytes() for name in ("passwd", "shadow", "group")}


class Server:
    """A process that starts a server in each home that it reads from its standard input."""

    def __init__(self, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
        )
        assert self.read() == "imported"

    def start(self, home: Path) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{home}\n")
        self.process.stdin.flush()

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate()


async def serve() -> None:
    answer("imported")
    for line in sys.stdin:
        home = Home(Path(line.strip()))
        try:
            async with EmbeddedPostgres(home, durable=False):
                user_id = home.postgres_data.stat().st_uid
            answer(f"served as {user_id}")
        except StackError as error:
            answer(str(error))


def answer(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def forget_user() -> None:
    for name, content in NEW.items():
        Path("/etc", name).write_bytes(content)


def servers(rounds: int, count: int) -> None:
    """Several processes start a server at the same moment."""
    processes = [Server() for _ in range(count)]
    for _ in range(rounds):
        forget_user()
        with temporary_directory() as directory:
            for number, process in enumerate(processes):
                process.start(directory / str(number))
            answers = [process.read() for process in processes]
        expected = f"served as {pwd.getpwnam(SYSTEM_USER).pw_uid}"
        assert answers == [expected] * count, (answers, expected)
    for process in processes:
        process.end()


def stacks(rounds: int, count: int) -> None:
    """Several whole stacks start at the same moment."""
    for _ in range(rounds):
        forget_user()
        with temporary_directory() as directory, ExitStack() as running:
            started = [RunningStack(directory / str(number), command=STAND_IN) for number in range(count)]
            for stack in started:
                running.enter_context(stack)


def killed() -> None:
    """A process is killed while its `useradd` runs; another one starts meanwhile."""
    with temporary_directory() as directory:
        calls, slow = directory / "calls", directory / "useradd"
        slow.write_text(f'#!/bin/sh\necho called >> {calls}\nsleep 1\nexec /usr/sbin/useradd "$@"\n')
        slow.chmod(0o755)
        path = f"{directory}:{os.environ['PATH']}"
        first, second = Server(PATH=path), Server(PATH=path)
        first.start(directory / "first")
        while not calls.exists():
            time.sleep(0.005)
        first.process.kill()
        second.start(directory / "second")
        assert second.read() == f"served as {pwd.getpwnam(SYSTEM_USER).pw_uid}"
        assert calls.read_text() == "called\n"
        second.end()


def main() -> None:
    mode, *numbers = sys.argv[1:]
    if mode == "server":
        asyncio.run(serve())
    elif mode == "killed":
        killed()
    else:
        {"servers": servers, "stacks": stacks}[mode](*map(int, numbers))


if __name__ == "__main__":
    main()
