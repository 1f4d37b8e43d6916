"""Makes the checkout's virtual environment with the locked packages; `make` runs this with any Python from 3.11.

Runs at the same time take turns: the first one installs, and the others find the environment complete.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
READY = VENV / ".ready"
INPUTS = (ROOT / "requirements.txt", ROOT / "pyproject.toml")
PIP = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def main() -> None:
    """Wait for the lock, then install unless another run has done that meanwhile."""
    lock = os.open(ROOT / ".venv.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another make, which installs the packages ...")
        fcntl.flock(lock, fcntl.LOCK_EX)
    if not is_current():
        say("installing the locked packages into .venv ...")
        install(lock)


def is_current() -> bool:
    """Return whether an installation has ended since the lock file and the project file changed."""
    return READY.exists() and all(READY.stat().st_mtime >= each.stat().st_mtime for each in INPUTS)


def install(lock: int) -> None:
    """Install into the environment; a crash at any line leaves it without the file that marks it as complete."""
    READY.unlink(missing_ok=True)
    if not is_usable():
        run(lock, sys.executable, "-m", "venv", "--clear", VENV)
    run(lock, *PIP, "--require-hashes", "-r", "requirements.txt")
    # The project is linked in; a build in isolation would fetch its build tools, without hashes.
    run(lock, *PIP, "--no-deps", "--no-build-isolation", "-e", ".")
    READY.touch()


def is_usable() -> bool:
    """Return whether the environment has pip and a Python from 3.11, which may have been removed since."""
    check = "import pip, sys; sys.exit(sys.version_info < (3, 11))"
    try:
        done = subprocess.run([PYTHON, "-c", check], capture_output=True, check=False)  # noqa: S603 - fixed words
    except OSError:
        return False
    return done.returncode == 0


def run(lock: int, *command: str | Path) -> None:
    """Run a command in the checkout; end with its exit code where it fails."""
    # The command inherits the lock: after a kill of this process, others wait until the command has ended.
    done = subprocess.run(command, cwd=ROOT, pass_fds=[lock], check=False)  # noqa: S603 - our own words
    if done.returncode != 0:
        sys.exit(done.returncode)


def say(line: str) -> None:
    """Write a line to the terminal at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
