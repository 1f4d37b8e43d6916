"""Chooses the TCP ports of one stack before its processes start; the API's address."""

from __future__ import annotations

import errno
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from runtime.embedded.certificates import ServerCertificate
from runtime.embedded.parts import StackError

LOOPBACK = "127.0.0.1"
# Below the ephemeral range (from 32768 or 49152): no outgoing connection can take such a port between the choice
# and the start of the server.
_CHOICE = range(18_000, 32_000)
_ATTEMPTS = 500
_EVERY_ADDRESS = {"0.0.0.0", "::", ""}  # noqa: S104 - recognised here, not listened on
_PROBE_SECONDS = 5.0

Probe = Callable[[], Awaitable[bool]]


@dataclass(frozen=True)
class StackOptions:
    """The command line of `perennial dev`; a port of 0 means any free one."""

    home: Path
    api_port: int = 8080
    temporal_port: int = 7233
    ui_port: int = 8233
    tls: bool = False
    workers: int = 1


def port_is_free(port: int, host: str = LOOPBACK) -> bool:
    """Return whether a server can listen on ``host:port`` now. Connections in TIME_WAIT don't count."""
    try:
        _listen_once(port, host)
    except OSError as error:
        if error.errno in {errno.EADDRINUSE, errno.EACCES}:
            return False
        raise
    return True


def free_port(avoid: Collection[int] = (), host: str = LOOPBACK) -> int:
    """Return a port that is free now and not in ``avoid``. Raises :class:`StackError` if none is found."""
    for _ in range(_ATTEMPTS):
        port = secrets.choice(_CHOICE)
        if port not in avoid and port_is_free(port, host):
            return port
    raise StackError(f"No free port was found on {host} between {_CHOICE.start} and {_CHOICE.stop}.")


def choose_ports(options: StackOptions, api_host: str) -> StackOptions:
    """Return the options with a free port in place of each 0. Raises :class:`StackError` for a taken port."""
    wanted = {
        "--api-port": options.api_port,
        "--temporal-port": options.temporal_port,
        "--ui-port": options.ui_port,
    }
    fixed = [port for port in wanted.values() if port]
    for flag, port in reversed(wanted.items()):
        if fixed.count(port) > 1:
            raise StackError(f"Port {port} is asked for twice; choose another one with {flag}.")
    chosen: list[int] = []
    for flag, port in wanted.items():
        host = api_host if flag == "--api-port" else LOOPBACK
        if port and not _is_free(port, host):
            raise StackError(f"Port {port} is taken; choose another one with {flag} (0 picks a free one).")
        chosen.append(port or free_port(avoid=[*fixed, *chosen]))
    api, temporal, ui = chosen
    return replace(options, api_port=api, temporal_port=temporal, ui_port=ui)


@dataclass(frozen=True)
class ApiAddress:
    """The API's address for processes on this machine."""

    host: str
    port: int
    certificate: ServerCertificate | None

    @property
    def url(self) -> str:
        host = LOOPBACK if self.host in _EVERY_ADDRESS else self.host
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self.certificate else 'http'}://{shown}:{self.port}"

    def probe(self) -> Probe:
        """Return a check that is true once the API and its dependencies are healthy."""
        trusted: Any = True
        if self.certificate:
            trusted = ssl.create_default_context(cafile=str(self.certificate.authority))
        address = f"{self.url}/health/ready"

        async def is_healthy() -> bool:
            try:
                async with httpx.AsyncClient(verify=trusted, timeout=_PROBE_SECONDS, trust_env=False) as client:
                    return (await client.get(address)).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        return is_healthy


def _is_free(port: int, host: str) -> bool:
    try:
        return port_is_free(port, host)
    except OSError as error:
        raise StackError(f"PERENNIAL_API_HOST can't be listened on: {error.strerror}.") from error


def _listen_once(port: int, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        probe.listen(1)
