"""Runs the embedded PostgreSQL server on 127.0.0.1, with its data in the stack's home directory."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType

import asyncpg

from runtime.embedded import postgres_files as files
from runtime.embedded.home import Home
from runtime.embedded.leftovers import stop_postgres
from runtime.embedded.machine import prepare_machine
from runtime.embedded.parts import PartFailedError, StackError
from runtime.embedded.ports import LOOPBACK, free_port, port_is_free
from runtime.embedded.postgres_roles import APP_ROLE, DATABASE, OWNER_ROLE, ensure_roles
from runtime.embedded.processes import ChildProcess, Command, last_line

_READY_SECONDS = 120.0  # Postgres may first recover from a crash
_POLL_SECONDS = 0.02
_PORT_ATTEMPTS = 3

_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "max_wal_size": "2GB",
    "wal_level": "replica",
    "random_page_cost": "1.1",
    "jit": "off",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # These settings keep personal data out of the log: statements, parameters, and values in error messages.
    # In log_min_messages, `log` ranks above `error`. So Postgres logs its own state but no client's error.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_statement": "none",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class EmbeddedPostgres:
    """PostgreSQL as a child process. ``async with`` starts the process, and stops it on exit.

    The first start takes the port saved in the home, or a free port, and saves it. Later starts of the same object
    use the same port. With ``durable=False``, Postgres is faster but a power failure may destroy the data. This is
    for tests.
    """

    name = "postgres"

    def __init__(self, home: Home, *, durable: bool = True) -> None:
        self._home = home
        self._data = home.postgres_data
        self._durable = durable
        self._user: str | None = None
        self._port: int | None = None
        self._port_served = False
        self._has_roles = False
        self._process: ChildProcess | None = None
        self.log_file = home.log_file(self.name)

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None if the postmaster isn't running."""
        running = self._process is not None and self._process.exit_code is None
        return self._process.pid if self._process and running else None

    @property
    def port(self) -> int:
        if self._port is None:
            raise RuntimeError("Postgres was not started yet.")
        return self._port

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def runtime_url(self) -> str:
        return self._url(APP_ROLE, self._home.secret("postgres-app"), DATABASE)

    @property
    def owner_url(self) -> str:
        return self._url(OWNER_ROLE, self._home.secret("postgres-owner"), DATABASE)

    @property
    def superuser_url(self) -> str:
        """The superuser's URL of the database `postgres`, for tests and repairs."""
        return self._url(files.SUPERUSER, self._home.secret("postgres-superuser"), "postgres")

    async def start(self) -> None:
        """Start the server, wait until it serves, and create its roles and database if they are missing.

        First ends the Postgres processes that remain from a killed supervisor. Raises :class:`PartFailedError` or
        another :class:`StackError`.
        """
        if self.pid is not None:
            raise RuntimeError("Postgres is running.")
        await asyncio.to_thread(stop_postgres, self._data)
        self._user = await asyncio.to_thread(prepare_machine, files.binaries(), self._data)
        if not files.is_initialised(self._data):
            await files.initialise(
                self._data,
                self._home.secret("postgres-superuser"),
                user=self._user,
                log_file=self.log_file,
                durable=self._durable,
            )
        try:
            await self._start_on_some_port()
            await self._ensure_roles()
        except BaseException:
            await self.stop()
            raise

    async def wait(self) -> int:
        if self._process is None:
            raise RuntimeError("Postgres was not started yet.")
        return await self._process.wait()

    async def stop(self, grace: float = 5.0) -> None:
        """Shut down with SIGINT. After ``grace`` seconds, send SIGQUIT; the next start then replays the WAL."""
        if self._process is not None:
            await self._process.stop((signal.SIGINT, grace), (signal.SIGQUIT, 0.5))
            self._process = None
            # If the postmaster was killed, some of its backends may still run.
            await asyncio.to_thread(stop_postgres, self._data)

    def kill(self) -> None:
        """Kill the postmaster. Its backends usually exit by themselves; :meth:`stop` ends those that still run."""
        if self._process:
            self._process.kill()

    async def __aenter__(self) -> EmbeddedPostgres:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _start_on_some_port(self) -> None:
        for _ in range(_PORT_ATTEMPTS):
            self._port = self._port if self._port_served else self._choose_port()
            self._process = await ChildProcess.spawn(self._command())
            if await self._becomes_ready():
                self._port_served = True
                self._home.save_port(self.name, self.port)
                return
            # Choose another port only if another program has taken this one. Never replace a port on which
            # Postgres has served, because clients use it.
            if self._port_served or port_is_free(self.port):
                break
        raise PartFailedError(
            f"Postgres ended before it served ({last_line(self.log_file)}); see {self.log_file}.",
            self.log_file,
        )

    async def _becomes_ready(self) -> bool:
        """Wait until Postgres serves; returns False if it exits. Raises :class:`PartFailedError` on time-out."""
        assert self._process is not None
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            if self._process.exit_code is not None:
                return False
            if self._says_ready(self._process.pid):
                return True
            await asyncio.sleep(_POLL_SECONDS)
        raise PartFailedError(
            f"Postgres did not serve within {_READY_SECONDS:.0f} s; see {self.log_file}.", self.log_file
        )

    def _says_ready(self, pid: int) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return False
        # Line 1 is the process id, line 8 the state. A file that an earlier postmaster left has another id.
        return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"

    async def _ensure_roles(self) -> None:
        if self._has_roles:
            return
        try:
            await ensure_roles(
                host=LOOPBACK,
                port=self.port,
                superuser=files.SUPERUSER,
                password=self._home.secret("postgres-superuser"),
                owner_password=self._home.secret("postgres-owner"),
                app_password=self._home.secret("postgres-app"),
            )
        except asyncpg.InvalidPasswordError as error:
            raise StackError(
                f"{self._home.secrets} does not hold the password of the database in {self._data}; "
                "put the directory back that belongs to it."
            ) from error
        except (OSError, asyncpg.PostgresError) as error:
            raise PartFailedError(
                f"The database roles could not be made ({error}); see {self.log_file}.", self.log_file
            ) from error
        self._has_roles = True

    def _choose_port(self) -> int:
        saved = self._home.saved_port(self.name)
        return saved if saved and port_is_free(saved) else free_port()

    def _command(self) -> Command:
        settings = {**_SETTINGS, "port": str(self.port), **({} if self._durable else _NOT_DURABLE)}
        arguments = [str(files.binaries() / "postgres"), "-D", str(self._data)]
        for name, value in settings.items():
            arguments += ["-c", f"{name}={value}"]
        return Command(
            arguments,
            self.log_file,
            files.environment(),
            user=self._user,
            # If the supervisor is killed, Postgres gets SIGINT and shuts down cleanly, without later recovery.
            death_signal=signal.SIGINT,
        )

    def _url(self, role: str, password: str, database: str) -> str:
        return f"postgresql://{role}:{password}@{self.address}/{database}"


@asynccontextmanager
async def scratch_postgres() -> AsyncIterator[EmbeddedPostgres]:
    """Run an empty, non-durable server in a temporary directory; stop it and remove the directory on exit."""
    with tempfile.TemporaryDirectory(prefix="perennial-scratch-") as directory:
        home = Home(Path(directory) / "home")
        with home.locked():
            async with EmbeddedPostgres(home, durable=False) as postgres:
                yield postgres
