"""Parts of several commands."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from runtime.database import Database
from runtime.embedded.home import endpoints_of
from runtime.settings import ConfigurationError, Settings

T = TypeVar("T")
ACTOR = "system:cli"
"""The actor of these commands in the audit log."""

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="State directory of the embedded stack.", envvar="PERENNIAL_HOME"),
]


def with_database(settings: Settings, work: Callable[[Any], Awaitable[T]]) -> T:
    """Run ``work`` in one transaction."""

    async def run() -> T:
        database = Database(settings.require_database_url(), size=1, application="cli")
        await database.open()
        try:
            async with database.transaction() as connection:
                return await work(connection)
        finally:
            await database.close()

    return asyncio.run(run())


def for_running_stack(settings: Settings, home: Path | None) -> Settings:
    """The settings, with the running stack's database unless the environment names one."""
    if settings.database_url:
        return settings
    found = endpoints_of(home or settings.home).get("postgres")
    if not found:
        raise ConfigurationError(
            "No running stack was found; start one with `make run`, give --home, or set PERENNIAL_DATABASE_URL."
        )
    return settings.model_copy(update={"database_url": found})


def ca_file_of(endpoints: dict[str, Any], url: str | None) -> Path | None:
    """The running stack's certificate authority, unless another API is meant."""
    return Path(endpoints["ca_file"]) if "ca_file" in endpoints and not url else None


def admin_key_of(endpoints: dict[str, Any], url: str | None) -> str:
    """The running stack's admin key. Raises :class:`ConfigurationError` for another API, which may not get it."""
    if url and url.rstrip("/") != endpoints.get("api"):
        raise ConfigurationError("Give --key too: --url names another API than the running stack's.")
    with suppress(KeyError, OSError):
        return Path(endpoints["admin_key_file"]).read_text().strip()
    return ""


def end(code: int) -> NoReturn:
    """Exit without the interpreter's shutdown, which can abort in native code of the Temporal client."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
