"""Prepares the machine for Postgres when the stack runs as root: a system user, and access to the program files.

All stacks on the machine share both, so one lock protects both. A stack that waited for the lock finds both ready.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.embedded.parts import StackError

SYSTEM_USER = "pgserver"
LOCK_FILE = Path("/var/run/perennial.lock")
_LOCK_SECONDS = 60.0
_POLL_SECONDS = 0.02


def prepare_machine(programs: Path, data: Path) -> str | None:
    """Return a system user for Postgres that can reach ``data`` and run ``programs``. Blocks.

    Postgres refuses to run as root. Returns None if this process isn't root: Postgres then runs as the same user.
    Raises :class:`StackError` if root can't create the system user.
    """
    if os.geteuid() != 0:
        return None
    with _machine_lock() as lock:
        user_id = _ensure_user(lock)
        for directory in {*data.resolve().parents, *programs.resolve().parents}:
            if directory.stat().st_uid != user_id:
                _add_permissions(directory, stat.S_IXOTH)  # to pass through; others still can't list it
        open_to_others(programs)
    return SYSTEM_USER


def open_to_others(programs: Path) -> None:
    """Let every user read and run the installation around ``programs``: a strict umask may have forbidden it."""
    last = programs / "postgres"
    if last.stat().st_mode & stat.S_IXOTH:
        return
    installed = [path for path in programs.parent.rglob("*") if path != last and not path.is_symlink()]
    # After a kill in the middle the next start repeats all of it: the program that it checks comes last.
    for path in (programs.parent, *installed, last):
        executable = stat.S_IXOTH if path.stat().st_mode & stat.S_IXUSR else 0
        _add_permissions(path, stat.S_IROTH | executable)


def _add_permissions(path: Path, wanted: int) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & wanted != wanted:
        path.chmod(mode | wanted)


def _ensure_user(lock: int) -> int:
    """Return the user id of Postgres's system user; create the user if it is missing.

    The caller must hold the lock. Two concurrent `useradd` both succeed, and the second overwrites the entry with
    another id. The user then can't read the files that belong to the first id.
    """
    try:
        return pwd.getpwnam(SYSTEM_USER).pw_uid
    except KeyError:
        _add_user(lock)
    return pwd.getpwnam(SYSTEM_USER).pw_uid


def _add_user(lock: int) -> None:
    # After `su` without `-`, root's PATH lacks these directories.
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    program = shutil.which("useradd", path=search) or "useradd"
    command = [program, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    try:
        # `useradd` inherits the lock: if this process is killed, others still wait until `useradd` has ended.
        subprocess.run(command, check=True, capture_output=True, pass_fds=[lock])  # noqa: S603 - fixed words
    except (OSError, subprocess.CalledProcessError) as error:
        raise StackError(
            f"PostgreSQL refuses to run as root and the system user {SYSTEM_USER} could not be made; "
            "make it by hand or start the stack as an ordinary user."
        ) from error


@contextmanager
def _machine_lock() -> Iterator[int]:
    """Hold the machine's lock. The kernel releases it when every process that inherited it has ended."""
    try:
        # The directory belongs to root: other users can neither lock this file nor replace it with a link.
        lock = os.open(LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StackError(f"The lock file {LOCK_FILE} can't be used: {error.strerror}.") from error
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                raise StackError(
                    f"Another process has held {LOCK_FILE} for {_LOCK_SECONDS:.0f} s; end that process."
                )
            time.sleep(_POLL_SECONDS)
        yield lock
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
