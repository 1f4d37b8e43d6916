"""Limits failed authentications, by the address of the client, in each process.

A flood without a valid key must not cost Postgres a statement a request, so each process counts for itself. An
address has a token bucket. A wrong key costs a token, and a request without a key half of one. With an empty
bucket the address gets 429 before its key is looked up. Keys that this process has accepted before still pass, so
other clients behind the same proxy keep working.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict

from models.errors import TooManyRequestsError

_MINUTE = 60.0
_WITHOUT_KEY = 0.5
_MOST_ADDRESSES = 10_000
_MOST_KEYS = 10_000
_IPV6_NETWORK = 64
"""A client usually has a whole network of IPv6 addresses."""


class FailureThrottle:
    """The failures of each address. ``a_minute`` is the size of a bucket, which fills up in a minute."""

    def __init__(self, a_minute: int) -> None:
        self._a_minute = a_minute
        self._emptied: OrderedDict[str, float] = OrderedDict()
        """By address: the time at which its bucket is full again."""
        self._accepted: OrderedDict[int, None] = OrderedDict()
        """Hashes of accepted keys, the latest last. Python salts them, so they can't be matched elsewhere."""

    def accept(self, secret: str) -> None:
        """Remember that a key was valid."""
        self._accepted[hash(secret)] = None
        self._accepted.move_to_end(hash(secret))
        if len(self._accepted) > _MOST_KEYS:
            self._accepted.popitem(last=False)

    def check(self, client: str | None, secret: str | None) -> None:
        """Raise :class:`TooManyRequestsError` if the client has failed too often and the key is not known."""
        if not self._emptied or (secret is not None and hash(secret) in self._accepted):
            return
        wait = self._emptied.get(_network(client), 0.0) - time.monotonic() - _MINUTE + self._cost(secret)
        if wait > 0:
            raise TooManyRequestsError(
                math.ceil(wait), "This address has sent too many requests without a valid key"
            )

    def fail(self, client: str | None, secret: str | None) -> None:
        """Count a failure. The key, if it was known, is so no longer."""
        self._accepted.pop(hash(secret), None)
        address, now = _network(client), time.monotonic()
        self._emptied[address] = max(self._emptied.get(address, now), now) + self._cost(secret)
        self._emptied.move_to_end(address)
        if len(self._emptied) > _MOST_ADDRESSES:
            self._emptied.popitem(last=False)

    def _cost(self, secret: str | None) -> float:
        """The seconds in which the tokens of a failure come back."""
        return (1.0 if secret is not None else _WITHOUT_KEY) * _MINUTE / self._a_minute


def _network(client: str | None) -> str:
    if client is None or ":" not in client:
        return client or ""
    try:
        return str(ipaddress.ip_network((client.partition("%")[0], _IPV6_NETWORK), strict=False))
    except ValueError:
        return client
