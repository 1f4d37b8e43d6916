"""Which ports and programs one stack has, decided before anything is started."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, replace
from typing import Any

import httpx

from runtime.embedded.certificates import ServerCertificate
from runtime.embedded.errors import StackError
from runtime.embedded.options import StackOptions
from runtime.embedded.ports import LOOPBACK, free_port, port_is_free
from runtime.embedded.service import Probe

_EVERY_ADDRESS = {"0.0.0.0", "::", ""}  # noqa: S104 - recognised here, not listened on
_PROBE_SECONDS = 5.0


def settle_ports(options: StackOptions, api_host: str) -> StackOptions:
    """The options with free ports for those given as 0. Raises :class:`StackError` for one that is taken."""
    settled: dict[str, int] = {}
    wanted = {
        "--api-port": options.api_port,
        "--temporal-port": options.temporal_port,
        "--ui-port": options.ui_port,
    }
    for flag, port in wanted.items():
        host = api_host if flag == "--api-port" else LOOPBACK
        if port in settled.values():
            raise StackError(f"Port {port} is asked for twice; choose another one with {flag}.")
        if port and not _is_free(port, host):
            raise StackError(f"Port {port} is taken; choose another one with {flag} (0 picks a free one).")
        settled[flag] = port or free_port(avoid={*wanted.values(), *settled.values()})
    api, temporal, ui = settled.values()
    return replace(options, api_port=api, temporal_port=temporal, ui_port=ui)


@dataclass(frozen=True)
class ApiAddress:
    """Where the API is reached from this machine."""

    host: str
    port: int
    certificate: ServerCertificate | None

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        host = LOOPBACK if self.host in _EVERY_ADDRESS else self.host
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self.certificate else 'http'}://{shown}:{self.port}"

    def probe(self) -> Probe:
        """A question whether the API and all that it depends on is healthy."""
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
