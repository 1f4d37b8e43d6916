"""A Postgres that lives for one piece of work and leaves nothing behind."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from runtime.embedded.home import Home
from runtime.embedded.postgres import EmbeddedPostgres


@asynccontextmanager
async def scratch_postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A fresh, empty server in a temporary directory, not durable, stopped and removed on leaving."""
    with tempfile.TemporaryDirectory(prefix="perennial-scratch-") as directory:
        home = Home(Path(directory) / "home")
        with home.held():
            async with EmbeddedPostgres(home, durable=False) as postgres:
                yield postgres
