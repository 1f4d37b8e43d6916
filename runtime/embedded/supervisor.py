"""`perennial dev`: starts the parts, restarts those that end, publishes their addresses, and stops them."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from runtime.embedded import leftovers
from runtime.embedded.certificates import ensure_certificate
from runtime.embedded.home import Home
from runtime.embedded.parts import Part, PartFailedError, StackError
from runtime.embedded.ports import ApiAddress, StackOptions, choose_ports
from runtime.embedded.postgres import EmbeddedPostgres
from runtime.embedded.processes import Command, last_line, run_to_end
from runtime.embedded.service import Service, codec_token, service_environment
from runtime.embedded.temporal_server import EmbeddedTemporal, find_temporal
from runtime.embedded.terminal import Terminal
from runtime.embedded.web_ui import WebUi, hidden_address
from runtime.settings import Settings

# -P: the caller's directory is not searched for modules.
OUR_PROGRAM = (sys.executable, "-P", "-m", "cli")

_FIRST_START_ATTEMPTS = 10
_FIRST_START_SECONDS = 120.0
_BACKOFF_FROM, _BACKOFF_TO = 0.2, 5.0
_STABLE_SECONDS = 30.0
# Together less than 5 s, the time limit for stopping the whole stack.
_SERVICE_GRACE, _SERVER_GRACE = 2.7, 1.3
# On one machine, requests to the API take precedence over the workers.
_WORKER_NICENESS = 5
# `make` forwards a signal that the process group has already received: within this time, both count as one.
_SECOND_SIGNAL_AFTER = 0.3


def run_stack(options: StackOptions, settings: Settings, *, program: Sequence[str] = OUR_PROGRAM) -> int:
    """Run the embedded stack until a signal stops it, and return the exit code.

    0: a signal stopped it. 1: it could not start; one sentence on standard error says why. ``program`` runs our
    own processes with the argument ``bootstrap``, ``api`` or ``worker``.
    """
    terminal = Terminal()
    try:
        home = Home(options.home)
        with home.locked():
            return asyncio.run(_run(home, options, settings, program, terminal))
    except StackError as error:
        terminal.print_error(str(error))
        return 1


async def _run(
    home: Home, options: StackOptions, settings: Settings, program: Sequence[str], terminal: Terminal
) -> int:
    home.remove_endpoints()  # of a run that was killed
    await asyncio.to_thread(leftovers.stop_recorded, home)
    options = choose_ports(options, settings.api_host)
    return await Stack(home, options, settings, program, terminal).run()


class Stack:
    """One running stack: its parts, and for each part a task that restarts it."""

    def __init__(
        self,
        home: Home,
        options: StackOptions,
        settings: Settings,
        program: Sequence[str],
        terminal: Terminal,
    ) -> None:
        self._home = home
        self._options = options
        self._settings = settings
        self._program = program
        self._terminal = terminal
        certificate = ensure_certificate(home.tls) if options.tls else None
        self._api_address = ApiAddress(settings.api_host, options.api_port, certificate)
        self._postgres = None if settings.database_url else EmbeddedPostgres(home)
        token = codec_token(home, settings)
        self._web_ui = WebUi(
            options.ui_port,
            lambda: self._temporal.ui_url,
            f"{self._api_address.url}/codec/{token}" if token else None,
            str(certificate.authority) if certificate else None,
        )
        self._temporal = EmbeddedTemporal(
            home,
            port=options.temporal_port,
            ui_address=hidden_address(),
            binary=find_temporal(settings.temporal_cli),
            namespace=settings.temporal_namespace,
            codec_endpoint=self._web_ui.codec_endpoint,
        )
        self._services: list[Service] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._published = False
        self._stop_requested = asyncio.Event()
        self._stop_requested_at = 0.0

    async def run(self) -> int:
        self._listen_for_signals()
        try:
            async with self._web_ui.serving(), asyncio.TaskGroup() as group:
                self._spawn(group, self._start_all(group))
                await self._stop_requested.wait()
                for task in self._tasks:
                    task.cancel()
        except BaseExceptionGroup as failures:
            expected, unexpected = failures.split(StackError)
            if expected is None or unexpected is not None:
                raise
            raise _first_of(expected) from None
        finally:
            await self._shut_down()
        return 0

    async def _start_all(self, group: asyncio.TaskGroup) -> None:
        """Start both servers concurrently, then our processes. Publish the addresses."""
        began = time.monotonic()
        servers = [
            self._spawn(group, self._start_database(group)),
            self._spawn(group, self._start_part(group, self._temporal)),
        ]
        for task in servers:
            await task
        self._services = self._make_services()
        for task in [self._spawn(group, self._start_part(group, part)) for part in self._services]:
            await task
        self._published = True
        self._publish()
        self._terminal.print(f"ready after {time.monotonic() - began:.1f} s")
        self._terminal.print_table(self._rows(), "Ctrl-C stops everything.")

    async def _start_database(self, group: asyncio.TaskGroup) -> None:
        if self._postgres:
            await self._start_part(group, self._postgres)
        log_file = self._home.log_file("bootstrap")
        code = await run_to_end(Command([*self._program, "bootstrap"], log_file, self._environment()))
        if code != 0:
            reason = last_line(log_file) or f"exit code {code}"
            raise PartFailedError(f"The database could not be prepared ({reason}); see {log_file}.", log_file)
        self._terminal.print("migrations are applied")

    async def _start_part(self, group: asyncio.TaskGroup, part: Part) -> None:
        """Start a part, and then restart it whenever it ends. Raises :class:`StackError` if all attempts fail."""
        began = time.monotonic()
        for attempt in range(1, _FIRST_START_ATTEMPTS + 1):
            try:
                async with asyncio.timeout(_FIRST_START_SECONDS):
                    await part.start()
                break
            except TimeoutError:
                raise PartFailedError(
                    f"The {part.name} was not healthy in {_FIRST_START_SECONDS:.0f} s; see {part.log_file}.",
                    part.log_file,
                ) from None
            except PartFailedError as error:
                if attempt == _FIRST_START_ATTEMPTS:
                    raise
                self._terminal.print(str(error))
                await asyncio.sleep(_backoff(attempt))
        leftovers.record(self._home, self._process_ids())
        self._terminal.print(f"{part.name} is up after {time.monotonic() - began:.1f} s (process {part.pid})")
        self._spawn(group, self._keep_alive(part))

    async def _keep_alive(self, part: Part) -> None:
        """Restart a part whenever it ends. The delay grows while it ends soon after each start."""
        failures = 0
        while True:
            began = time.monotonic()
            code = await part.wait()
            failures = 1 if time.monotonic() - began > _STABLE_SECONDS else failures + 1
            self._terminal.print(f"{part.name} ended ({_describe_exit(code)}); starting it again")
            while not await self._start_again(part, failures):
                failures += 1
            self._terminal.print(f"{part.name} is back (process {part.pid})")
            self._publish()

    async def _start_again(self, part: Part, failures: int) -> bool:
        await asyncio.sleep(_backoff(failures))
        try:
            await part.start()
        except (StackError, OSError) as error:
            self._terminal.print(str(error))
            return False
        return True

    def _make_services(self) -> list[Service]:
        environment = self._environment()
        probe = self._api_address.probe()
        services = [Service("api", self._home, [*self._program, "api"], environment, probe=probe)]
        for number in range(1, self._options.workers + 1):
            name = "worker" if number == 1 else f"worker-{number}"
            arguments = [*self._program, "worker"]
            services.append(Service(name, self._home, arguments, environment, niceness=_WORKER_NICENESS))
        return services

    def _environment(self) -> dict[str, str]:
        return service_environment(
            self._home,
            self._settings,
            runtime_url=self._database_url(),
            owner_url=self._owner_url(),
            temporal=self._temporal,
            ui_url=self._web_ui.url,
            api_port=self._options.api_port,
            certificate=self._api_address.certificate,
        )

    def _database_url(self) -> str:
        return self._postgres.runtime_url if self._postgres else self._settings.require_database_url()

    def _owner_url(self) -> str:
        if self._postgres:
            return self._postgres.owner_url
        return self._settings.migration_database_url or self._settings.require_database_url()

    def _parts(self) -> list[Part]:
        servers: list[Part] = [self._temporal, *([self._postgres] if self._postgres else [])]
        return [*self._services, *servers]

    def _process_ids(self) -> list[int]:
        return [part.pid for part in self._parts() if part.pid is not None]

    def _publish(self) -> None:
        """Record the process ids. Write the endpoints file too, once all parts have been healthy."""
        leftovers.record(self._home, self._process_ids())
        if not self._published:
            return
        pids = {part.name: part.pid for part in self._parts() if part.pid is not None}
        endpoints: dict[str, Any] = {
            "api": self._api_address.url,
            "temporal": self._temporal.address,
            "temporal_ui": self._web_ui.url,
            "postgres": self._database_url(),
            "admin_key_file": str(self._home.admin_key_file),
            "pids": {name: pid for name, pid in pids.items() if not name.startswith("worker-")},
            "workers": [pid for name, pid in pids.items() if name.startswith("worker")],
        }
        if self._api_address.certificate:
            endpoints["ca_file"] = str(self._api_address.certificate.authority)
        self._home.write_endpoints(endpoints)

    def _rows(self) -> list[tuple[str, str]]:
        rows = [
            ("API", f"{self._api_address.url}  (its pages: /docs)"),
            ("Temporal Web UI", self._web_ui.url),
            ("Temporal", self._temporal.address),
            ("Postgres", self._postgres.address if self._postgres else "as PERENNIAL_DATABASE_URL says"),
            ("admin key", str(self._home.admin_key_file)),
            ("addresses", str(self._home.endpoints_file)),
            ("logs", str(self._home.logs)),
        ]
        if self._api_address.certificate:
            rows.append(("certificate authority", str(self._api_address.certificate.authority)))
        return rows

    def _listen_for_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # started by nohup
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if not self._stop_requested.is_set():
            self._stop_requested_at = time.monotonic()
            self._stop_requested.set()
            self._terminal.print("stopping")
        elif number is signal.SIGINT and time.monotonic() - self._stop_requested_at > _SECOND_SIGNAL_AFTER:
            for part in self._parts():  # a second Ctrl-C kills everything
                part.kill()

    async def _shut_down(self) -> None:
        self._home.remove_endpoints()
        # API and workers first, because they use the servers until they have ended.
        await asyncio.gather(*(service.stop(_SERVICE_GRACE) for service in self._services))
        servers = [self._temporal.stop()]
        if self._postgres:
            servers.append(self._postgres.stop(_SERVER_GRACE))
        await asyncio.gather(*servers)
        leftovers.record(self._home, [])
        self._terminal.print("everything is stopped")

    def _spawn(self, group: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = group.create_task(work)
        self._tasks.append(task)
        return task


def _backoff(failures: int) -> float:
    """Return the seconds to wait after this many failures in a row."""
    return min(_BACKOFF_TO, _BACKOFF_FROM * 2.0 ** (failures - 1))


def _describe_exit(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"


def _first_of(failures: BaseExceptionGroup[StackError]) -> StackError:
    first = failures.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
