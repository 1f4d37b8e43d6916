"""Every route of the OpenAPI document with every role, for existing and missing resources."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any

import httpx
import pytest

from models.rules.profile import age_on
from models.vocabulary import Role
from tests.access.table import PARAMETERS, TABLE, Row
from tests.support.disk import Canaries
from tests.support.http import Clients

AGE = age_on(datetime.now(UTC).date(), date(1971, 3, 7))
QUASI = ("1971-03-07", "Antarctica", "x-canary", '"age":107', f'"age":{AGE}')
"""Canaries in attributes that don't accept any text."""


async def routes_of(client: httpx.AsyncClient) -> dict[str, frozenset[str]]:
    """The roles of each route in the OpenAPI document."""
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    return {
        f"{method.upper()} {path}": frozenset(operation["x-roles"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }


async def test_the_table_contains_every_route_and_no_other(api: Clients) -> None:
    routes = await routes_of(api.anonymous)
    new = sorted(set(routes) - set(TABLE))
    assert not new, f"{', '.join(new)}: add a row to TABLE in tests/access/table.py that says who may call it"
    gone = sorted(set(TABLE) - set(routes))
    assert not gone, f"{', '.join(gone)}: there is no such route; take the row out of tests/access/table.py"
    for route, row in TABLE.items():
        assert row.roles == routes[route], route


async def test_the_table_knows_every_path_parameter() -> None:
    for route in TABLE:
        unknown = set(re.findall(r"{(\w+)}", route)) - set(PARAMETERS)
        assert not unknown, f"{route}: say in PARAMETERS of tests/access/table.py what exists and what doesn't"


def path_of(route: str, *, missing: bool) -> str:
    """The path with its parameters; with ``missing``, the first of PARAMETERS names a resource that doesn't
    exist."""
    path = route.partition(" ")[2]
    named = [name for name in PARAMETERS if f"{{{name}}}" in path]
    for name in named:
        existing, nothing = PARAMETERS[name]
        path = path.replace(f"{{{name}}}", nothing if missing and name == named[0] else existing)
    return path


async def ask(api: Clients, route: str, row: Row, role: Role, *, missing: bool) -> httpx.Response:
    body = None if row.body is None else row.body(role)
    method = route.partition(" ")[0]
    return await api.of(role).request(method, path_of(route, missing=missing), json=body)


@pytest.mark.parametrize(("route", "row"), TABLE.items(), ids=TABLE.keys())
async def test_each_role_gets_the_status_in_the_table_and_no_canary(
    peopled: Clients, canaries: Canaries, route: str, row: Row
) -> None:
    allowed = row.roles or frozenset(Role)
    for role in sorted(
        Role, key=lambda each: (each in allowed, each is Role.ADMIN)
    ):  # allowed roles, and admins, last
        there = await ask(peopled, route, row, role, missing=False)
        absent = None if row.missing is None else await ask(peopled, route, row, role, missing=True)
        if role not in allowed:
            assert there.status_code == 403, (role, there.text)
            if absent is not None:
                assert content_of(absent) == content_of(there), "a 403 doesn't reveal whether the resource exists"
        else:
            assert there.status_code == row.existing, (role, there.text)
            if absent is not None:
                assert absent.status_code == row.missing, (role, absent.text)
        for answer in filter(None, (there, absent)):
            if role is not Role.ADMIN:
                assert_no_canary(answer, canaries)
    if row.people:
        assert canaries.mark in there.text, "without personal data for an admin, the test would prove nothing"


def content_of(answer: httpx.Response) -> tuple[int, dict[str, Any]]:
    """Status and body of an answer without the request id."""
    return answer.status_code, {**answer.json(), "request_id": ""}


def assert_no_canary(answer: httpx.Response, canaries: Canaries) -> None:
    seen = f"{answer.headers} {answer.text}".lower()
    for canary in (canaries.mark, *QUASI):
        assert canary.lower() not in seen, f"{answer.request.method} {answer.request.url.path}: {answer.text}"
