"""`perennial api`: serves the API until a signal stops the process."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
import uvloop

from api.app import create_app
from api.connections import Limits, bounded
from api.resources import Resources
from checks.lag import watched
from checks.start import StartChecks
from runtime.metrics import metrics_served
from runtime.process import announce_ready, collect_garbage_rarely
from runtime.settings import ConfigurationError, Settings
from runtime.telemetry import configure_logging, configure_tracing

_GRACE_SECONDS = 2
_KEEP_ALIVE_SECONDS = 75
_WRITE_SECONDS = 60
_BACKLOG = 1024
logger = logging.getLogger("perennial.api")


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code.

    After the signal, uvicorn waits :data:`_GRACE_SECONDS` for open requests, and then cancels those still open.
    The process then stores waiting events, closes its connections and exits.

    The process also starts while Postgres or Temporal is unreachable. Until it can connect, requests that need the
    unreachable server get 503. Raises :class:`checks.unmet.UnmetError` if a server that answers doesn't meet
    Perennial's needs, also if it first answers later.
    """
    listening = _listen(settings.api_host, settings.api_port)
    if listening is None:
        sys.stderr.write(
            f"The address {settings.api_host}:{settings.api_port} can't be listened on: is it taken?\n"
        )
        return 1
    configure_logging(settings)
    tracing = configure_tracing(settings, "api")
    with listening, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, listening))
    if tracing is not None:
        tracing.shutdown()
    return 0


async def _serve(settings: Settings, listening: socket.socket) -> None:
    resources = await Resources.build(settings)
    app = create_app(resources)
    collect_garbage_rarely()
    config = uvicorn.Config(
        app,
        http=bounded(
            Limits(
                connections=settings.api_max_connections,
                header_seconds=settings.api_header_seconds,
                body_seconds=settings.api_body_seconds,
                write_seconds=_WRITE_SECONDS,
                default_quota=settings.rate_limit_per_minute,
            )
        ),
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=settings.trusted_proxies is not None,
        forwarded_allow_ips=settings.trusted_proxies or "",
        timeout_graceful_shutdown=_GRACE_SECONDS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        ssl_context_factory=_tls_context(settings),
    )
    server = _Server(config, settings.ready_file, resources.stopping)
    assert resources.temporal is not None  # build() has made it
    checks = StartChecks(settings, resources.temporal)
    await checks.run()
    async with (
        checks.continued(server.stop),
        watched(resources.database),
        metrics_served(settings.metrics_address, resources.metrics),
    ):
        await server.serve(sockets=[listening])


class _Server(uvicorn.Server):
    """uvicorn's server. It also writes the ready file when it serves, and returns normally after a signal."""

    def __init__(self, config: uvicorn.Config, ready_file: Path | None, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._ready_file = ready_file
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            logger.info("serving", extra={"address": ":".join(map(str, (sockets or [])[0].getsockname()[:2]))})
            announce_ready(self._ready_file)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM or SIGINT. A later SIGINT stops the server without waiting for open requests."""
        # Replaces uvicorn's method, which raises the signal again after the server has stopped.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop, number)
        yield

    def stop(self, number: int = signal.SIGTERM) -> None:
        self._stopping.set()
        self.handle_exit(number, None)


def _listen(host: str, port: int) -> socket.socket | None:
    """A listening socket; None if the address can't be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        return None
    return listening


def _tls_context(
    settings: Settings,
) -> Callable[[uvicorn.Config, Callable[[], ssl.SSLContext]], ssl.SSLContext] | None:
    """A factory for a context of TLS 1.3 or later; None without a certificate.

    Raises :class:`ConfigurationError`.
    """
    if settings.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError):
        raise ConfigurationError("PERENNIAL_TLS_CERTIFICATE and PERENNIAL_TLS_KEY can't be used.") from None
    return lambda _config, _default: context
