"""Runs the checks and every test in a state as new as the machine allows, and leaves no process behind.

The steps run in a clean clone with a home directory of their own. As root, each step gets an /etc of its own
without Postgres's system user, so that every step makes that user again. Where the machine does not allow one of
these, a line says so and the steps run without it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
NEW_MACHINE = ROOT / ".ci" / "new-machine"
STEPS = (("make", "check"), ("make", "test"), ("make", "test-slow"))
# pip finds its registries through these, and through variables and /etc/pip.conf, which the steps keep.
PIP_FILES = (".pip", ".config/pip", ".netrc")
PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Run the steps and return the exit code of the first one that fails."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, leave)
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="perennial-ci-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        checkout = clone(scratch)
        environment = new_environment(scratch)
        for number, step in enumerate(STEPS):
            began = time.monotonic()
            say(f"== {' '.join(step)}")
            code = run([*new_machine(scratch / f"etc-{number}"), *step], checkout, environment)
            say(f"== {' '.join(step)}: exit code {code} after {time.monotonic() - began:.0f} s")
            if code != 0:
                return code
    return 0


def clone(scratch: Path) -> Path:
    """Return a clean clone of the checkout; the checkout itself where git can't clone all that is in it."""
    status = subprocess.run(["git", "-C", ROOT, "status", "--porcelain"], capture_output=True, text=True)
    if status.returncode != 0 or status.stdout:
        say("not a clean git checkout: the steps run in it as it is")
        return ROOT
    made = subprocess.run(["git", "clone", "--quiet", ROOT, scratch / "clone"], stdin=subprocess.DEVNULL)
    return scratch / "clone" if made.returncode == 0 else ROOT


def new_environment(scratch: Path) -> dict[str, str]:
    """Return this environment with an empty home directory, except for pip's settings."""
    home, old = scratch / "home", Path.home()
    for file in PIP_FILES:
        if (old / file).exists():
            (home / file).parent.mkdir(parents=True, exist_ok=True)
            (home / file).symlink_to(old / file)
    home.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    # This Python first: a version manager may find its own through the old home.
    programs = [str(Path(sys.executable).resolve().parent), os.environ.get("PATH", os.defpath)]
    return {**environment, "HOME": str(home), "PATH": os.pathsep.join(programs)}


def new_machine(etc: Path) -> list[str | Path]:
    """Return the beginning of a command that runs with an /etc of its own; empty where that is not possible."""
    if os.geteuid() != 0:
        say("not root: Postgres runs as this user and needs no system user")
        return []
    for directory in (etc, trial := etc.with_name(f"{etc.name}-trial")):
        directory.mkdir()
    tried = subprocess.run([NEW_MACHINE, trial, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        say(f"no /etc of its own for this step, which runs on the machine as it is: {tried.stderr.strip()}")
        return []
    return [NEW_MACHINE, etc]


def run(command: list[str | Path], directory: Path, environment: dict[str, str]) -> int:
    """Run a command and return its exit code, once every process that it started has ended."""
    with ended_processes():
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            while process.returncode is None:
                pid, status = os.waitpid(-1, 0)  # reaps orphans too, whose end the tests wait for
                if pid == process.pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode if process.returncode >= 0 else 128 - process.returncode
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


@contextmanager
def ended_processes() -> Iterator[None]:
    """End all children on exit. Linux makes children of the processes whose parent has ended, too."""
    try:
        yield
    finally:
        for number, seconds in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
            deadline = time.monotonic() + seconds
            while (alive := children()) and time.monotonic() < deadline:
                for pid in alive:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                time.sleep(0.2)


def children() -> list[int]:
    """Return the ids of this process's children that still run, after reaping those that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name in parentheses may hold spaces; the state and the parent's id follow it.
            if int(file.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(file.parent.name))
    return found


def adopt_orphans() -> None:
    """Ask Linux to make this process the parent of every descendant whose own parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def leave(number: int, _frame: FrameType | None) -> None:
    """End with the exit code that shells give for the signal."""
    sys.exit(128 + number)


def say(line: str) -> None:
    """Write a line at once, before the next step writes its own."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
