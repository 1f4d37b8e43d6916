"""The state directory of one embedded stack: its lock, its secrets and its files."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runtime.embedded.parts import StackError

_ENDPOINTS = "endpoints.json"


def endpoints_of(home: Path) -> dict[str, Any]:
    """Return the addresses that a running stack has published in ``home``; empty if none runs."""
    try:
        document = json.loads((home / _ENDPOINTS).read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


class Home:
    """Paths and small files of one stack. Creates the directories with mode 0700.

    As root, :mod:`runtime.embedded.machine` makes the home 0701: Postgres's system user must reach the data in it.
    The directories inside stay closed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.secrets = self.path / "secrets"
        self.logs = self.path / "logs"
        self.run = self.path / "run"
        self.postgres_data = self.path / "postgres"
        self.temporal = self.path / "temporal"
        self.tls = self.path / "tls"
        self.key_file = self.path / "keys.json"
        self.admin_key_file = self.path / "admin.key"
        self.endpoints_file = self.path / _ENDPOINTS
        self._lock_file = self.path / "lock"
        try:
            for directory in (self.path, self.secrets, self.logs, self.run, self.temporal):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StackError(f"The state directory {self.path} can't be used: {error.strerror}.") from error

    def log_file(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the home for this process. Raises :class:`StackError` while another process has it locked."""
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise StackError(
                    f"The state directory {self.path} belongs to another running stack (process {holder}); "
                    "stop that one or choose another directory with --home."
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
            yield
        finally:
            os.close(descriptor)

    def secret(self, name: str) -> str:
        """Return the secret ``name``, made at random on first use; letters and digits, safe in a URL."""
        file = self.secrets / name
        with suppress(FileNotFoundError):
            return file.read_text("ascii").strip()
        value = secrets.token_hex(24)
        write_private(file, value + "\n")
        return value

    def saved_port(self, name: str) -> int | None:
        """Return the port that the part ``name`` had at the last start."""
        with suppress(FileNotFoundError, ValueError):
            return int(self._port_file(name).read_text("ascii"))
        return None

    def save_port(self, name: str, port: int) -> None:
        write_private(self._port_file(name), f"{port}\n")

    def write_endpoints(self, endpoints: Mapping[str, Any]) -> None:
        write_private(self.endpoints_file, json.dumps(endpoints, indent=2) + "\n")

    def remove_endpoints(self) -> None:
        self.endpoints_file.unlink(missing_ok=True)

    def _port_file(self, name: str) -> Path:
        return self.run / f"{name}.port"


def write_private(path: Path, text: str) -> None:
    """Write ``text`` atomically, readable by the owner alone (0600)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
