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
from testing.hooks import HookServer


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
        ["192.0.0.192"],
        ["192.88.99.1"],
        ["198.19.0.1"],
        ["203.0.113.9"],
        ["255.255.255.255"],
        ["240.0.0.1"],
        ["fec0::1"],
        ["feff::1"],
        ["::7f00:1"],
        ["::ffff:5db8:d822"],
        ["64:ff9b:1::5db8:d822"],
        ["64:ff9b::c000:c0"],
        ["100::1"],
        ["2001:2::1"],
        ["2001:db8::1"],
        ["2001::1"],
        ["3fff::1"],
        ["5f00::1"],
        ["ff0e::1"],
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


async def test_a_service_of_the_operator_may_have_a_private_address_and_no_other_host_or_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _resolving(monkeypatch, "127.0.0.1")
    async with HookServer() as service, HookServer() as other:
        own = f"http://billing.internal:{service.port}"
        outbound = Outbound(loopback=False, own=[own])
        assert (await outbound.request("GET", f"{own}/a", None, {}, longest=10)).status == 204
        for url in (f"http://billing.internal:{other.port}", f"http://shop.internal:{service.port}"):
            with pytest.raises(AddressForbiddenError):
                await outbound.request("GET", url, None, {}, longest=10)
    assert [hook.headers["host"] for hook in service.received] == [f"billing.internal:{service.port}"]
    assert other.received == []


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


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("[v1.fe]", "invalid_url"),
        ("[vF.a:b]", "invalid_url"),
        ("[1.2.3.4]", "invalid_url"),
        ("[2606:2800::1", "invalid_url"),
        ("[2606:2800:220:1::1%25eth0]", "invalid_url"),
        ("a..example", "invalid_url"),
        (".example", "invalid_url"),
        ("shop.example.com.", "invalid_url"),
        ("-shop.example", "invalid_url"),
        ("shop-.example", "invalid_url"),
        ("a" * 64 + ".example", "invalid_url"),
        (".".join(["a" * 60] * 5), "invalid_url"),
        ("sh%6fp.example.com", "invalid_url"),
        ("shop<x>.example.com", "invalid_url"),
        ("xn--a.example", "invalid_url"),
        ("b\u00fc\u200bcher.example", "invalid_url"),
        ("\u2763.example", "invalid_url"),
        ("127.1", "invalid_url"),
        ("0x7f.0.0.0x1", "invalid_url"),
        ("2130706433", "invalid_url"),
        ("shop.example.com:0", "invalid_url"),
        ("shop.example.com:65536", "invalid_url"),
        ("\uff11\uff10.0.0.1", "address_not_allowed"),
        ("localhost", "address_not_allowed"),
        ("api.localhost", "address_not_allowed"),
        ("192.0.0.192", "address_not_allowed"),
        ("[fec0::1]", "address_not_allowed"),
        ("[::ffff:93.184.216.34]", "address_not_allowed"),
    ],
)
def test_a_host_to_which_the_client_cannot_connect_is_refused(host: str, code: str) -> None:
    problem = url_error(f"https://{host}/hooks", loopback=True)
    assert problem is not None
    assert problem[0] == code


@pytest.mark.parametrize(
    ("host", "ascii_host"),
    [
        ("b\u00fccher.example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("B\u00dcCHER.example", "xn--bcher-kva.example"),
        ("b\u00fccher\u3002example", "xn--bcher-kva.example"),
        ("stra\u00dfe.example", "xn--strae-oqa.example"),
        ("XN--STRAE-OQA.example", "xn--strae-oqa.example"),
        ("r3---sn_1.example", "r3---sn_1.example"),
    ],
)
async def test_a_name_is_resolved_in_its_ascii_form(
    monkeypatch: pytest.MonkeyPatch, host: str, ascii_host: str
) -> None:
    asked: list[str] = []

    async def getaddrinfo(name: str, port: int, **_: Any) -> list[Any]:
        asked.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    url = f"https://{host}/hooks/\u00fc?a=b"
    assert url_error(url, loopback=False) is None
    with pytest.raises(AddressForbiddenError):
        await Outbound(loopback=False).post(url, b"{}", {})
    assert asked == [ascii_host]


async def test_an_address_that_was_accepted_before_is_unreachable() -> None:
    with pytest.raises(UnreachableError):
        await Outbound(loopback=False).post("https://[v1.fe]/", b"{}", {})


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
