"""Restricts requests to callers' URLs: only https to public addresses is allowed.

The API checks the URL when it receives it. The HTTP client checks the resolved address when it connects, because
the name may then resolve to another address. Both read the URL with :func:`target`, so that the client can connect
to each URL that the API accepts.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from urllib.parse import urlsplit

import httpx

from models.rules.domains import ascii_domain

MAX_URL_LENGTH = 2048
LOOPBACK = "127.0.0.1"
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# IANA's registries of special-purpose addresses. Python's `is_global` differs between its versions.
_NOT_PUBLIC_4 = [
    ipaddress.IPv4Network(network)
    for network in [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    ]
]
_UNICAST = ipaddress.IPv6Network("2000::/3")
"""The only IPv6 addresses that IANA has assigned for global unicast."""
_NOT_PUBLIC_6 = [
    ipaddress.IPv6Network(network) for network in ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"]
]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_LONGEST_NAME = 253
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_UNSEEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})
_MALFORMED = ("invalid_url", "must be an absolute https URL without user name, password and fragment")
_FORBIDDEN = ("address_not_allowed", "must not lead to a private or reserved address")


def is_public(address: Address) -> bool:
    """Whether an address is public. Behind NAT64 an IPv6 address is as public as the IPv4 address in it."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
        return address in _UNICAST and not any(address in network for network in _NOT_PUBLIC_6)
    return not any(address in network for network in _NOT_PUBLIC_4)


def may_connect(host: str, address: str, *, loopback: bool) -> bool:
    """Whether the client may connect to ``address``, to which ``host`` resolved.

    ``loopback`` also allows 127.0.0.1, if the URL contains this address and not a name that resolves to it.
    """
    if loopback and host == LOOPBACK == address:
        return True
    return is_public(ipaddress.ip_address(address.partition("%")[0]))


def target(url: str) -> httpx.URL:
    """The URL as the client requests it, with an ASCII host. Raises ValueError if it can't connect."""
    if len(url) > MAX_URL_LENGTH:
        raise ValueError("too long")
    if "\\" in url or any(unicodedata.category(character) in _UNSEEN for character in url):
        raise ValueError("unusable characters")
    given = urlsplit(url).hostname
    if not given:
        raise ValueError("no host")
    try:
        parsed = httpx.URL(url) if url.isascii() else httpx.URL(url.replace(_host_of(url), ascii_domain(given), 1))
    except httpx.InvalidURL:
        raise ValueError("not a URL") from None
    host = parsed.raw_host.decode("ascii")
    if not _is_address(host) and not _is_name(host):
        raise ValueError("no host")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise ValueError("no port")
    return parsed


def _host_of(url: str) -> str:
    """The host of a URL as it was written."""
    authority = urlsplit(url).netloc.rpartition("@")[2]
    return authority if authority.endswith("]") else authority.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def _is_name(host: str) -> bool:
    """Whether a host is a name of DNS. If its last label is a number, resolvers read it as an IPv4 address."""
    labels = ascii_domain(host).split(".")
    well_formed = len(host) <= _LONGEST_NAME and all(map(_LABEL.fullmatch, labels))
    return well_formed and _NUMBER.fullmatch(labels[-1]) is None


def url_error(url: str, *, loopback: bool) -> tuple[str, str] | None:
    """A code and a message if requests to this URL are not allowed, else None."""
    if len(url) > MAX_URL_LENGTH:
        return ("too_long", f"must have at most {MAX_URL_LENGTH} characters")
    try:
        parsed = target(url)
    except ValueError:
        return _MALFORMED
    host = parsed.raw_host.decode("ascii")
    if parsed.userinfo or "@" in urlsplit(url).netloc or "#" in url:
        return _MALFORMED
    if parsed.scheme == "http" and loopback and host == LOOPBACK:
        return None
    if parsed.scheme != "https":
        return ("https_required", "must be an https URL")
    if _is_address(host):
        return None if may_connect(host, host, loopback=loopback) else _FORBIDDEN
    # Another name is checked when the client connects.
    return _FORBIDDEN if host.rpartition(".")[2] == "localhost" else None
