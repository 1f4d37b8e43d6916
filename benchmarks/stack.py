"""An embedded stack in a temporary directory, for one run of the benchmarks."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import orjson
from temporalio.client import Client

from benchmarks.http import Connection, connections
from privacy.encryption import Cipher
from privacy.keyring import KeyFile
from runtime.database import Database
from runtime.embedded.home import Home
from runtime.embedded.postgres_roles import OWNER_ROLE
from runtime.settings import Settings
from runtime.temporal import EncryptedPayloads, connect

_READY_SECONDS = 90.0
_STOP_SECONDS = 15.0
_USERS_A_REQUEST = 500
HIGH_LIMIT = 1_000_000


@dataclass(frozen=True)
class Stack:
    """A running stack, with clients of its API, Postgres and Temporal."""

    home: Path
    url: str
    admin_key: str
    key: str
    """A key of role admin, whose rate limit no benchmark reaches."""
    weak_key: str
    """A key of role integrator, which may not read profiles."""
    database_url: str
    owner_url: str
    """The same database for the role that may create tables."""
    temporal_address: str
    pids: Mapping[str, int]
    database: Database
    """A pool like the API's."""
    limiter: Database
    """A pool like the API's for keys and rate limits."""
    temporal: Client
    cipher: Cipher
    settings: Settings

    async def add_users(self, prefix: str, count: int, *, consents: Mapping[str, bool] | None = None) -> list[str]:
        """Create users over HTTP; returns their ids."""
        ids = [f"{prefix}-{number}" for number in range(count)]
        async with connections(self.url, self.key) as [connection]:
            for begin in range(0, count, _USERS_A_REQUEST):
                part = [_user(user_id, consents or {}) for user_id in ids[begin : begin + _USERS_A_REQUEST]]
                response = await connection.request("POST", "/users/batch", {"users": part})
                if response.status != 200 or response.json()["rejected"]:
                    raise RuntimeError(f"the users were not accepted: {response.status}")
        return ids

    async def bare_connection(self) -> asyncpg.Connection[asyncpg.Record]:
        """A connection of asyncpg alone, without a pool."""
        return await asyncpg.connect(self.database_url)


def _user(user_id: str, consents: Mapping[str, bool]) -> dict[str, object]:
    return {
        "user_id": user_id,
        "email": f"{user_id}@example.com",
        "name": f"Person {user_id}",
        "signup_date": "2026-01-05T10:00:00Z",
        "account_status": "active",
        "lifecycle_stage": "onboarding",
        "consents": consents,
    }


@asynccontextmanager
async def running_stack() -> AsyncIterator[Stack]:
    """Start a stack on free ports; when the block ends, stop it and remove its state."""
    # Postgres runs as another user where this one is root, so the parent directory must be open to all.
    home = Path(tempfile.mkdtemp(prefix="perennial-bench-"))
    try:
        process = _start(home)
        try:
            endpoints = await _ready(process, home)
            async with _connected(home, endpoints) as stack:
                yield stack
        finally:
            _stop(process)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _start(home: Path) -> subprocess.Popen[bytes]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PERENNIAL_")}
    command = [sys.executable, "-m", "benchmarks.program", "stack", str(home)]
    with (home / "bench.log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=clean)


async def _ready(process: subprocess.Popen[bytes], home: Path) -> dict[str, Any]:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if (endpoints := _endpoints(home)) is not None:
            return endpoints
        await asyncio.sleep(0.1)
    raise RuntimeError(f"the stack did not start:\n{_text(home / 'bench.log')}")


def _endpoints(home: Path) -> dict[str, Any] | None:
    """The addresses that a stack writes once it is ready; None before."""
    try:
        document: dict[str, Any] = json.loads((home / "endpoints.json").read_text())
    except (OSError, ValueError):
        return None
    return document


def _text(path: Path) -> str:
    return path.read_text(errors="replace").strip()


@asynccontextmanager
async def _connected(home: Path, endpoints: dict[str, Any]) -> AsyncIterator[Stack]:
    url, database_url = endpoints["api"], endpoints["postgres"]
    admin_key = _text(Path(endpoints["admin_key_file"]))
    ring = KeyFile(home / "keys.json").load()
    settings = Settings(
        database_url=database_url,
        temporal_address=endpoints["temporal"],
        temporal_namespace="default",
        temporal_tls=False,
        task_queue="perennial",
        database_pool_size=12,
    )
    database = Database(database_url, size=settings.database_pool_size, application="bench")
    limiter = Database(database_url, size=4, application="bench-limiter", settings={"synchronous_commit": "off"})
    await database.open()
    await limiter.open()
    codec = EncryptedPayloads(ring.payload.current, ring.payload.keys)
    try:
        async with connections(url, admin_key) as [admin]:
            yield Stack(
                home=home,
                url=url,
                admin_key=admin_key,
                key=await _new_key(admin, "admin"),
                weak_key=await _new_key(admin, "integrator"),
                database_url=database_url,
                owner_url=_owner_url(home, database_url),
                temporal_address=settings.temporal_address,
                pids=endpoints["pids"],
                database=database,
                limiter=limiter,
                temporal=await connect(settings, codec, lazy=False),
                cipher=Cipher(ring),
                settings=settings,
            )
    finally:
        await limiter.close()
        await database.close()


def _owner_url(home: Path, database_url: str) -> str:
    parts = urlsplit(database_url)
    password = Home(home).secret("postgres-owner")
    return f"postgresql://{OWNER_ROLE}:{password}@{parts.hostname}:{parts.port}{parts.path}"


async def _new_key(admin: Connection, role: str) -> str:
    wanted = {"name": f"bench-{role}", "role": role, "rate_limit": HIGH_LIMIT}
    response = await admin.request("POST", "/keys", wanted)
    if response.status != 201:
        raise RuntimeError(f"no key was created: {response.status}")
    return str(orjson.loads(response.body)["key"])


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
