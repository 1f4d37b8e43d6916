"""A route that touches personal data must write an audit row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.responses import Response

from api.app import create_app
from api.dependencies import AuditOf, InTransaction
from api.guard import GuardedRoute, UndeclaredRouteError, allow, audited, not_audited, public
from api.resources import Resources
from api.responses import json_response
from models.vocabulary import Role
from tests.audit.log import Log
from tests.support.http import BASE_URL, Clients, assert_problem


@allow(Role.ADMIN)
async def neither() -> None: ...


@public
@audited("users.read")
async def public_and_audited() -> None: ...


@public
@not_audited
async def public_and_not_audited() -> None: ...


@pytest.mark.parametrize("endpoint", [neither, public_and_audited, public_and_not_audited])
def test_a_route_must_declare_its_action_or_that_it_is_not_audited(
    endpoint: Callable[[], Awaitable[None]],
) -> None:
    router = APIRouter(route_class=GuardedRoute)
    with pytest.raises(UndeclaredRouteError, match="@audited"):
        router.get("/x")(endpoint)


@pytest.mark.parametrize("name", ["read", "Users.read", "users.read.all", "users read", ""])
def test_an_action_is_resource_and_verb(name: str) -> None:
    with pytest.raises(ValueError, match="verb"):
        audited(name)


@pytest.fixture
async def forgetful(resources: Resources, api: Clients) -> AsyncIterator[httpx.AsyncClient]:
    """An application with audited endpoints that note nothing."""
    app: FastAPI = create_app(resources)
    router = APIRouter(route_class=GuardedRoute)

    @router.get("/forgetful")
    @allow(Role.ANALYST)
    @audited("users.read")
    async def forgetful() -> Response:
        return json_response({"name": "Ada"})

    @router.post("/forgetful")
    @allow(Role.ANALYST)
    @audited("users.create")
    async def writing(connection: InTransaction, audit: AuditOf) -> Response:
        await connection.execute("INSERT INTO event_types VALUES ('a.b', '', '{}', '{}', '{}', now())")
        return json_response({"name": "Ada"})

    @router.put("/forgetful")
    @allow(Role.ANALYST)
    @audited("users.change")
    async def writing_in_its_own_transaction(audit: AuditOf) -> Response:
        async with audit.transaction() as connection:
            await connection.execute("INSERT INTO event_types VALUES ('a.b', '', '{}', '{}', '{}', now())")
        return json_response({"name": "Ada"})

    app.include_router(router)
    headers = api.analyst.headers
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers) as client:
        yield client


async def test_an_endpoint_that_has_noted_nothing_is_answered_with_500(
    forgetful: httpx.AsyncClient, log: Log
) -> None:
    for method in ("GET", "POST", "PUT"):
        answer = await forgetful.request(method, "/forgetful")
        assert_problem(answer, 500, "internal_error")
        assert "Ada" not in answer.text
    async with log.database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM event_types") == 0
