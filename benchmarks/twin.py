"""Two more API processes for a stack: an ordinary one, and one that writes no row to the audit log.

The second is the ceiling of `audit`: the same code on the same database, without the rows. Run as
``python -m benchmarks.twin [--unaudited]``, with the settings in the environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from api.server import serve
from benchmarks.stack import Stack
from models.audit import AuditEntry
from runtime.embedded.ports import LOOPBACK, free_port
from runtime.settings import load_settings
from store.audit import entries
from store.connection import Connection

_READY_SECONDS = 30.0


@dataclass(frozen=True)
class Twin:
    """One of the two API processes."""

    url: str
    pid: int


@contextmanager
def twins(stack: Stack) -> Iterator[tuple[Twin, Twin]]:
    """The audited process and the unaudited one, ended when the block ends."""
    with _running(stack) as audited, _running(stack, "--unaudited") as other:
        yield audited, other


@contextmanager
def _running(stack: Stack, *arguments: str) -> Iterator[Twin]:
    port = free_port()
    ready = stack.home / f"twin-{port}.ready"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PERENNIAL_")}
    environment = clean | {
        "PERENNIAL_ENVIRONMENT": "embedded",
        "PERENNIAL_DATABASE_URL": stack.database_url,
        "PERENNIAL_KEY_FILE": str(stack.home / "keys.json"),
        "PERENNIAL_TEMPORAL_ADDRESS": stack.temporal_address,
        "PERENNIAL_API_PORT": str(port),
        "PERENNIAL_READY_FILE": str(ready),
    }
    command = [sys.executable, "-m", "benchmarks.twin", *arguments]
    with (stack.home / f"twin-{port}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"an API process did not start; see {stack.home / f'twin-{port}.log'}")
            time.sleep(0.05)
        yield Twin(f"http://{LOOPBACK}:{port}", process.pid)
    finally:
        process.terminate()
        process.wait()


async def _append_nothing(connection: Connection, entries: Sequence[AuditEntry]) -> None:
    """Replace ``audit.append`` in the unaudited process."""


if __name__ == "__main__":
    if "--unaudited" in sys.argv[1:]:
        entries.append = _append_nothing
    sys.exit(serve(load_settings()))
