"""Where requests may be sent that others ask for: public addresses over https, and no others.

A name is judged twice: its URL when it is given, and the address that it resolves to when it is connected to,
since that may be another one by then.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

LONGEST_URL = 2048
LOOPBACK = "127.0.0.1"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Whether an address is of the public internet; an IPv4 address within an IPv6 one is judged by itself."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def may_connect(host: str, address: str, *, loopback: bool) -> bool:
    """Whether an address that a host has resolved to may be connected to.

    ``loopback``: this machine is allowed as well, where it was asked for by its address 127.0.0.1.
    """
    if loopback and host == LOOPBACK == address:
        return True
    return is_public(ipaddress.ip_address(address.partition("%")[0]))


def objection(url: str, *, loopback: bool) -> tuple[str, str] | None:
    """What speaks against sending anything to a URL, as a code and what is wanted; None where nothing does."""
    malformed = ("invalid_url", "must be an absolute https URL without user name, password and fragment")
    if len(url) > LONGEST_URL:
        return ("too_long", f"must have at most {LONGEST_URL} characters")
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
    return _address_objection(host, loopback=loopback)


def _address_objection(host: str, *, loopback: bool) -> tuple[str, str] | None:
    """What speaks against a host that is written as an address; names are resolved when they are connected to."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if host.rpartition(".")[2].isdecimal() or host.startswith("0x"):  # 127.1, 2130706433, 0x7f000001
            return ("invalid_url", "must write an address in full")
        return None
    if may_connect(host, host, loopback=loopback):
        return None
    return ("address_not_allowed", "must not lead to a private or reserved address")
