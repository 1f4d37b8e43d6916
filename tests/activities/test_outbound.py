"""The guard of HTTP requests to URLs that callers have given."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from delivery.http import AddressForbiddenError, Outbound, UnreachableError
from models.rules.outbound_urls import may_connect, url_error
from runtime.embedded.certificates import ensure_certificate
from tests.support.hooks import HookServer


def _resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Resolve every name to these addresses; connections stay real."""
    loop = asyncio.get_running_loop()

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.1.2.3"],
        ["192.168.0.1"],
        ["100.64.0.1"],
        ["169.254.169.254"],
        ["0.0.0.0"],
        ["224.0.0.1"],
        ["fd00::1"],
        ["fe80::1%eth0"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::a00:1"],
        ["2002:7f00:1::"],
        ["93.184.216.34", "10.0.0.1"],
    ],
)
async def test_no_request_goes_to_a_name_that_resolves_to_a_private_address(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    _resolving(monkeypatch, *addresses)
    for loopback in (True, False):
        with pytest.raises(AddressForbiddenError):
            await Outbound(loopback=loopback).post("https://shop.example.com/", b"{}", {})


async def test_the_embedded_stack_alone_may_send_to_loopback() -> None:
    async with HookServer() as hooks:
        assert (await Outbound(loopback=True).post(hooks.url, b"{}", {})).taken
        with pytest.raises(AddressForbiddenError):
            await Outbound(loopback=False).post(hooks.url, b"{}", {})
    assert len(hooks.received) == 1
    assert url_error(hooks.url, loopback=True) is None
    assert url_error(hooks.url, loopback=False) == ("https_required", "must be an https URL")


async def test_a_name_is_resolved_in_its_ascii_form_of_idna_2008(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        raise OSError

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    for url in ("https://xn--strae-oqa.example/", "https://straße.example/"):
        with pytest.raises(UnreachableError):
            await Outbound(loopback=False).post(url, b"{}", {})
    assert asked == ["xn--strae-oqa.example"] * 2


def test_requests_may_go_to_public_addresses() -> None:
    for address in ("93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"):
        assert may_connect("shop.example.com", address, loopback=False)
    assert url_error("https://shop.example.com:8443/hooks?a=b", loopback=False) is None


async def test_tls_is_verified_against_the_name_and_a_closed_port_is_unreachable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A certificate for localhost, from an authority that isn't trusted, and then one that is."""
    certificate = ensure_certificate(tmp_path / "tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    async with HookServer(context) as hooks:
        with pytest.raises(UnreachableError):
            await Outbound(loopback=True).post(hooks.url, b"{}", {})
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
        assert (await Outbound(loopback=True).post(hooks.url, b"{}", {})).status == 204
        assert hooks.received[-1].headers["host"] == f"127.0.0.1:{hooks.port}"
    with pytest.raises(UnreachableError):
        await Outbound(loopback=True).post(hooks.url, b"{}", {})
