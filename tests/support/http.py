"""Clients of the API, one for each role, and assertions on answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.datastructures import State

from api.app import create_app
from api.resources import Resources
from models.vocabulary import Role
from runtime.database import Database
from store import api_keys

BASE_URL = "http://perennial.test"
PLENTY = 1_000_000


@dataclass(frozen=True)
class Clients:
    """One client for each role, and one without a key."""

    admin: httpx.AsyncClient
    operator: httpx.AsyncClient
    analyst: httpx.AsyncClient
    integrator: httpx.AsyncClient
    anonymous: httpx.AsyncClient

    def of(self, role: Role) -> httpx.AsyncClient:
        client: httpx.AsyncClient = getattr(self, role.value)
        return client


async def new_key(database: Database, role: Role, rate_limit: int | None = PLENTY) -> str:
    """Create a key for a role. ``rate_limit`` None is the default limit."""
    async with database.transaction() as connection:
        _, secret = await api_keys.create(connection, f"test {role}", [role], rate_limit)
    return secret


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


_built: dict[tuple[str, bool, int], FastAPI] = {}


def application(resources: Resources) -> FastAPI:
    """The application with these resources: a copy, since ``create_app`` takes half a second of processor time.

    Copies share their routes. A test that adds a route builds an application of its own.
    """
    settings = resources.settings
    kind = (settings.environment, settings.codec_token is None, settings.rate_limit_per_minute)
    if kind not in _built:
        _built[kind] = create_app(resources)
    copied = copy(_built[kind])
    copied.state = State({"resources": resources})
    copied.middleware_stack = None  # the first request builds the copy's own
    return copied


@asynccontextmanager
async def clients_of(app: FastAPI, database: Database) -> AsyncIterator[Clients]:
    """Clients that call an application through ASGI, without a network."""
    async with AsyncExitStack() as stack:

        async def client(headers: dict[str, str]) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app)
            return await stack.enter_async_context(
                httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers, trust_env=False)
            )

        keyed = {role.value: await client(bearer(await new_key(database, role))) for role in Role}
        yield Clients(**keyed, anonymous=await client({}))


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is a problem with this status and code, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert problem["type"] == f"urn:perennial:problem:{code}"
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == response.headers["x-request-id"]
    return problem


def field_errors(response: httpx.Response) -> set[tuple[str, str]]:
    """The (pointer, code) pairs of a validation failure."""
    problem = assert_problem(response, 422, "validation_failed")
    return {(error["pointer"], error["code"]) for error in problem["errors"]}
