"""The API and the workers as child processes, and their environment."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import runtime
from runtime.embedded.certificates import ServerCertificate
from runtime.embedded.home import Home
from runtime.embedded.parts import PartFailedError
from runtime.embedded.ports import Probe
from runtime.embedded.processes import ChildProcess, Command, last_line
from runtime.embedded.temporal_server import EmbeddedTemporal
from runtime.settings import Settings

_READY_SECONDS = 60.0
_POLL_SECONDS = 0.02
_PROBE_SECONDS = 0.1
# The whole stack stops within 5 s, so a worker gives its activities less time than in production.
_WORKER_GRACE_SECONDS = "2"


class Service:
    """An API or worker process. It serves when its ready file exists and ``probe`` is true."""

    def __init__(
        self,
        name: str,
        home: Home,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        probe: Probe | None = None,
        niceness: int = 0,
    ) -> None:
        self._name = name
        self._home = home
        self._arguments = arguments
        self._environment = environment
        self._probe = probe
        self._niceness = niceness
        self._starts = 0
        self._process: ChildProcess | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def log_file(self) -> Path:
        return self._home.log_file(self._name)

    @property
    def pid(self) -> int | None:
        running = self._process is not None and self._process.exit_code is None
        return self._process.pid if self._process and running else None

    async def start(self) -> None:
        self._starts += 1
        # Each start has its own file, because the process of an earlier start may still write its file.
        ready_file = self._home.run / f"{self._name}.{self._starts}.ready"
        ready_file.unlink(missing_ok=True)
        environment = {**self._environment, "PERENNIAL_READY_FILE": str(ready_file)}
        command = Command(self._arguments, self.log_file, environment, niceness=self._niceness)
        self._process = await ChildProcess.spawn(command)
        try:
            await self._wait_until_ready(self._process, ready_file)
        except BaseException:
            await self.stop(grace=0)
            raise
        finally:
            ready_file.unlink(missing_ok=True)

    async def wait(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self._name} was not started yet.")
        return await self._process.wait()

    async def stop(self, grace: float) -> None:
        if self._process is not None:
            await self._process.stop((signal.SIGTERM, grace))
            self._process = None

    def kill(self) -> None:
        if self._process:
            self._process.kill()

    async def _wait_until_ready(self, process: ChildProcess, ready_file: Path) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while process.exit_code is None and not ready_file.exists():  # noqa: ASYNC240 - takes microseconds
            if time.monotonic() > deadline:
                raise PartFailedError(
                    f"The {self._name} did not serve within {_READY_SECONDS:.0f} s; see {self.log_file}.",
                    self.log_file,
                )
            await asyncio.sleep(_POLL_SECONDS)
        # No time limit: an unhealthy process waits for Postgres or Temporal, and a restart would not help.
        while process.exit_code is None and self._probe and not await self._probe():  # noqa: ASYNC110
            await asyncio.sleep(_PROBE_SECONDS)
        if process.exit_code is not None:
            reason = last_line(self.log_file) or "it said nothing"
            raise PartFailedError(
                f"The {self._name} ended with exit code {process.exit_code} before it served ({reason}); "
                f"see {self.log_file}.",
                self.log_file,
            )


def service_environment(
    home: Home,
    settings: Settings,
    *,
    runtime_url: str,
    owner_url: str,
    temporal: EmbeddedTemporal,
    ui_url: str,
    api_port: int,
    certificate: ServerCertificate | None,
) -> dict[str, str]:
    """Return this process's environment with the addresses and files of the embedded stack."""
    environment = {"PERENNIAL_WORKER_GRACEFUL_SHUTDOWN_SECONDS": _WORKER_GRACE_SECONDS, **os.environ}
    environment |= {
        "PERENNIAL_HOME": str(home.path),
        "PERENNIAL_ENVIRONMENT": "embedded",
        "PERENNIAL_DATABASE_URL": runtime_url,
        "PERENNIAL_MIGRATION_DATABASE_URL": owner_url,
        "PERENNIAL_KEY_FILE": str((settings.key_file or home.key_file).resolve()),
        "PERENNIAL_TEMPORAL_ADDRESS": temporal.address,
        "PERENNIAL_TEMPORAL_UI_URL": ui_url,
        "PERENNIAL_TEMPORAL_TLS": "false",
        "PERENNIAL_API_PORT": str(api_port),
        "PYTHONPATH": _python_path(),
        "PYTHONUNBUFFERED": "1",
    }
    # Each run of a workflow imports its module again, and would compile it each time without bytecode.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    token = codec_token(home, settings)
    if token is not None:
        environment["PERENNIAL_CODEC_TOKEN"] = token
    if certificate is not None:
        environment["PERENNIAL_TLS_CERTIFICATE"] = str(certificate.certificate)
        environment["PERENNIAL_TLS_KEY"] = str(certificate.key)
    return environment


def codec_token(home: Home, settings: Settings) -> str | None:
    """Return the Web UI's secret for the API; None if the Web UI may not decode payloads."""
    return home.secret("codec") if settings.codec_in_ui else None


def _python_path() -> str:
    # Our own modules first, so that a stray cli.py in the caller's directory is not imported.
    own = str(Path(runtime.__file__ or "").resolve().parents[1])
    return os.pathsep.join([own, *filter(None, [os.environ.get("PYTHONPATH")])])
