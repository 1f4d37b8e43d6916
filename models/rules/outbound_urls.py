"""Restricts requests to callers' URLs: only https to public addresses is allowed.

The API checks the URL when it receives it. The HTTP client checks the resolved address when it connects, because
the name may then resolve to another address.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

MAX_URL_LENGTH = 2048
LOOPBACK = "127.0.0.1"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Whether an address is public. An IPv6 address that embeds an IPv4 address is as public as that one."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def may_connect(host: str, address: str, *, loopback: bool) -> bool:
    """Whether the client may connect to ``address``, to which ``host`` resolved.

    ``loopback`` also allows 127.0.0.1, if the URL contains this address and not a name that resolves to it.
    """
    if loopback and host == LOOPBACK == address:
        return True
    return is_public(ipaddress.ip_address(address.partition("%")[0]))


def url_error(url: str, *, loopback: bool) -> tuple[str, str] | None:
    """A code and a message if requests to this URL are not allowed, else None."""
    malformed = ("invalid_url", "must be an absolute https URL without user name, password and fragment")
    if len(url) > MAX_URL_LENGTH:
        return ("too_long", f"must have at most {MAX_URL_LENGTH} characters")
    if not url.isascii() or any(character <= " " or character == "\\" for character in url):
        return malformed
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return malformed
    if not host or port == 0 or "@" in parts.netloc or "#" in url:
        return malformed
    if parts.scheme == "http" and loopback and host == LOOPBACK:
        return None
    if parts.scheme != "https":
        return ("https_required", "must be an https URL")
    return _address_error(host, loopback=loopback)


def _address_error(host: str, *, loopback: bool) -> tuple[str, str] | None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if host.rpartition(".")[2].isdecimal() or host.startswith("0x"):  # 127.1, 2130706433, 0x7f000001
            return ("invalid_url", "must have an IP address in its full form")
        return None  # a name: checked when the client connects
    if may_connect(host, host, loopback=loopback):
        return None
    return ("address_not_allowed", "must not lead to a private or reserved address")
