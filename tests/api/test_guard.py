"""Keys and roles, the order of the checks, and the declarations that every route needs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts

from api.guard import GuardedRoute, UndeclaredRouteError, allow, not_audited, public, require_declarations
from api.resources import Resources, limiter_database
from models.vocabulary import Role
from runtime.database import Database
from store import api_keys
from tests.support.builders import user
from tests.support.http import Clients, application, assert_problem, bearer, clients_of, new_key


async def nothing() -> None:
    """An endpoint that declares nothing."""


def test_a_route_without_a_declared_role_can_not_be_created() -> None:
    router = APIRouter(route_class=GuardedRoute)
    with pytest.raises(UndeclaredRouteError):
        router.get("/x")(nothing)


@pytest.mark.parametrize("deep", [False, True])
def test_an_unguarded_route_prevents_the_start(deep: bool) -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    router, outer = APIRouter(), APIRouter()
    router.get("/x")(nothing)
    outer.include_router(router)
    app.include_router(outer if deep else router)
    with pytest.raises(UndeclaredRouteError, match="/x"):
        require_declarations(app)


def test_fastapis_own_pages_prevent_the_start() -> None:
    with pytest.raises(UndeclaredRouteError):
        require_declarations(FastAPI())


def test_a_mounted_application_prevents_the_start() -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.mount("/x", FastAPI())
    with pytest.raises(UndeclaredRouteError):
        require_declarations(app)


def test_declared_routes_are_accepted() -> None:
    @allow(Role.OPERATOR)
    @not_audited
    async def some() -> None: ...

    @public
    async def everybody() -> None: ...

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    router = APIRouter(route_class=GuardedRoute)
    router.get("/some")(some)
    router.get("/everybody")(everybody)
    app.include_router(router)
    require_declarations(app)
    routes = [context.original_route for context in iter_route_contexts(app.routes)]
    assert [route.access.roles for route in routes if isinstance(route, GuardedRoute)] == [
        {Role.ADMIN, Role.OPERATOR},
        frozenset(),
    ]


async def test_every_route_but_the_public_ones_needs_a_key(app: FastAPI, api: Clients) -> None:
    public_paths = {"/health/live", "/health/ready", "/openapi.json", "/docs", "/docs/swagger-ui.css"}
    asked = set()
    for context in iter_route_contexts(app.routes):
        path = str(context.path).replace("{asset}", "swagger-ui.css")
        for method in context.methods or ():
            asked.add(path)
            response = await api.anonymous.request(method, path)
            if path.startswith("/codec/") and (method == "OPTIONS" or "{token}" in path):
                assert response.status_code in {204, 404, 422}
            elif path in public_paths:
                assert response.status_code in {200, 503}
            else:
                assert_problem(response, 401, "unauthenticated")
    assert asked > public_paths


async def test_a_role_that_a_route_does_not_allow_is_403_before_the_body_is_read(
    app: FastAPI, api: Clients
) -> None:
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        assert isinstance(route, GuardedRoute)
        path = str(context.path)
        for method, role in itertools.product(context.methods or (), set(Role) - route.access.roles):
            if not route.access.public:
                answer = await api.of(role).request(method, path, content=b"{no json", params={"no": "x"})
                assert_problem(answer, 403, "forbidden")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Basic {key}")],
        [("Authorization", "{key}")],
        [("Authorization", "Bearer {key}x")],
        [("Authorization", "Bearer {key} {key}")],
        [("Authorization", "Bearer {key}"), ("Authorization", "Bearer {key}")],
        [("Authorization", "Bearer {key}"), ("X-API-Key", "{key}")],
        [("X-API-Key", "{key}"), ("X-API-Key", "{key}")],
        [("X-API-Key", "")],
        [("X-API-Key", "Bearer {key}")],
    ],
)
async def test_a_request_without_exactly_one_valid_key_is_401(
    api: Clients, database: Database, headers: list[tuple[str, str]]
) -> None:
    key = await new_key(database, Role.ADMIN)
    sent = [(name, value.format(key=key)) for name, value in headers]
    answer = await api.anonymous.get("/users", headers=sent)
    assert_problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_key_is_accepted_in_either_header(api: Clients, database: Database) -> None:
    key = await new_key(database, Role.ADMIN)
    for headers in (bearer(key), {"Authorization": f"bearer  {key} "}, {"X-API-Key": key}):
        assert (await api.anonymous.get("/users", headers=headers)).status_code == 200


async def test_a_well_formed_key_that_does_not_exist_is_401(api: Clients) -> None:
    assert_problem(
        await api.anonymous.get("/users", headers=bearer(api_keys.new_secret())), 401, "unauthenticated"
    )


async def test_a_mistyped_key_is_401_without_a_database_query(resources: Resources, database: Database) -> None:
    key = await new_key(database, Role.ADMIN)
    nowhere = limiter_database("postgresql://nobody@127.0.0.1:1/nothing")
    await nowhere.open()
    given = (resources.settings, resources.database, nowhere, resources.cipher, resources.temporal)
    async with clients_of(application(Resources(*given)), database) as clients:
        well_formed = await clients.anonymous.get("/users", headers=bearer(key))
        assert_problem(well_formed, 503, "store_unavailable")
        for place in range(len(key)):
            other = "A" if key[place] != "A" else "B"
            mistyped = key[:place] + other + key[place + 1 :]
            answer = await clients.anonymous.get("/users", headers=bearer(mistyped))
            assert_problem(answer, 401, "unauthenticated")
    await nowhere.close()


async def test_401_429_and_403_come_before_400_and_422(api: Clients, database: Database) -> None:
    bad: dict[str, Any] = {"content": b"{", "headers": {"Content-Type": "text/plain"}}
    assert_problem(await api.anonymous.post("/users?x=1", **bad), 401, "unauthenticated")
    assert_problem(await api.analyst.post("/users?x=1", **bad), 403, "forbidden")
    spent = await new_key(database, Role.ANALYST, rate_limit=1)
    await api.anonymous.get("/users", headers=bearer(spent))
    assert_problem(await api.anonymous.post("/users", json=user(), headers=bearer(spent)), 429, "rate_limited")
