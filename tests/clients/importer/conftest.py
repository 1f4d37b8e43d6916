"""A test server, and fixtures that run imports against it."""

from __future__ import annotations

import asyncio
import io
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from clients.importer.api_client import RetryPolicy
from clients.importer.options import ImportOptions
from clients.importer.run import run_import
from runtime.settings import Settings
from tests.clients.importer.peer import KEY, Peer, Server
from tests.support.processes import PerennialProcess

EXAMPLES = Path(__file__).parents[3] / "examples"
SAMPLE = Path(os.environ.get("PERENNIAL_SAMPLE_DATA", "")) / "cdnow_sample.csv"

MAPPING = """\
kind = "profiles"
key = "user_id"

[fields]
user_id = "u-{id}"
email = "{email}"
name = "{name}"
signup_date = { from = "{joined}", type = "timestamp", pick = "min", shift = true }
account_status = "active"
lifecycle_stage = "onboarding"
"demographics.country" = "{country}"
"consents.data_collection" = true
"""
HEADER = "id,email,name,joined,country\n"


@dataclass
class Ran:
    """The result of a run."""

    code: int
    output: str
    errors: str


class Imports:
    """Runs imports against the real API, with one key."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._key = key

    async def __call__(self, file: Path, mapping: Path, **changes: int) -> Ran:
        """Run an import in a thread, because it starts its own event loop."""
        output, errors = io.StringIO(), io.StringIO()
        options = ImportOptions(file, mapping, self._url, self._key, **changes)  # type: ignore[arg-type]
        code = await asyncio.to_thread(
            run_import, options, output=Console(file=output, width=120), errors=Console(file=errors, width=120)
        )
        return Ran(code, output.getvalue(), errors.getvalue())


@pytest.fixture(scope="package")
async def api_url(
    database_url: str, key_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The address of an API in its own process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(database_url=database_url, key_file=key_file, api_port=port)
    async with PerennialProcess("api", settings, tmp_path_factory.mktemp("api")):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def peer(server: Server) -> Peer:
    return server.new_peer()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a file for a test."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def run(peer: Peer, write: Callable[..., Path], tmp_path: Path) -> Callable[..., Ran]:
    """Run an import of ``tmp_path/people.csv`` against the peer."""

    def run(name: str = "people.csv", *, mapping: str = MAPPING, **changes: object) -> Ran:
        output, errors = io.StringIO(), io.StringIO()
        options = ImportOptions(
            **{  # type: ignore[arg-type]
                "file": tmp_path / name,
                "mapping": write("mapping.toml", mapping),
                "url": peer.url,
                "key": KEY,
                **changes,
            }
        )
        code = run_import(
            options,
            output=Console(file=output, width=120),
            errors=Console(file=errors, width=120),
            retries=RetryPolicy(attempts=4, first_pause=0.01, longest_pause=0.05),
        )
        return Ran(code, output.getvalue(), errors.getvalue())

    return run


def people(count: int) -> str:
    """A CSV with ``count`` people."""
    rows = (f"{n},p{n}@example.com,Person {n},2026-01-05T10:00:00Z,DE\n" for n in range(1, count + 1))
    return HEADER + "".join(rows)
