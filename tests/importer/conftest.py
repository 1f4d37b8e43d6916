"""A server of the tests' own, and a way to run an import against it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from importer.delivery import Patience
from importer.options import ImportOptions
from importer.run import run_import
from tests.importer.peer import KEY, Peer, Server

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
    """What a run left."""

    code: int
    output: str
    errors: str


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
            patience=Patience(attempts=4, first_pause=0.01, longest_pause=0.05),
        )
        return Ran(code, output.getvalue(), errors.getvalue())

    return run


def people(count: int) -> str:
    """A CSV of so many people."""
    rows = (f"{n},p{n}@example.com,Person {n},2026-01-05T10:00:00Z,DE\n" for n in range(1, count + 1))
    return HEADER + "".join(rows)
