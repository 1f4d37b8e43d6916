"""TCP ports on this machine: is one free, and which one is."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Collection

from runtime.embedded.errors import StackError

LOOPBACK = "127.0.0.1"
# Below the range from which systems number outgoing connections (32768 and up, or 49152 and up): no
# connection takes a port picked here between the pick and the start of the server that is to have it.
_PICK_FROM = range(18_000, 32_000)
_PICK_ATTEMPTS = 500


def port_is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on ``host:port`` now; connections in TIME_WAIT don't count."""
    try:
        _listen_once(port, host)
    except OSError as error:
        if error.errno in {errno.EADDRINUSE, errno.EACCES}:
            return False
        raise
    return True


def free_port(avoid: Collection[int] = (), host: str = LOOPBACK) -> int:
    """A port that is free now and not in ``avoid``. Raises :class:`StackError` when none is found."""
    for _ in range(_PICK_ATTEMPTS):
        port = secrets.choice(_PICK_FROM)
        if port not in avoid and port_is_free(port, host):
            return port
    raise StackError(f"No free port was found on {host} between {_PICK_FROM.start} and {_PICK_FROM.stop}.")


def _listen_once(port: int, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        probe.listen(1)
