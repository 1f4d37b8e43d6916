"""`HEAD` on every route with `GET`: its status and headers without a body, and the methods of each path."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from models.vocabulary import Role
from tests.access.table import TABLE
from tests.access.test_every_route import path_of
from tests.support.http import Clients, assert_problem

READABLE = [route for route in TABLE if route.startswith("GET ")]
UNSTABLE = ("x-request-id", "ratelimit", "date")
PUBLIC = [
    "/openapi.json",
    "/docs",
    "/docs/start.js",
    "/docs/nothing.js",
    "/health/live",
    "/health/ready",
    "/nowhere",
]


def compared(answer: httpx.Response) -> tuple[int, dict[str, str]]:
    return answer.status_code, {name: value for name, value in answer.headers.items() if name not in UNSTABLE}


@pytest.mark.parametrize("route", READABLE)
@pytest.mark.parametrize("missing", [False, True])
async def test_head_has_the_status_and_headers_of_get(peopled: Clients, route: str, missing: bool) -> None:
    path = path_of(route, missing=missing)
    for role in Role:
        got, headed = await peopled.of(role).get(path), await peopled.of(role).head(path)
        if path == "/audit":  # each request adds a row
            headed.headers["content-length"] = got.headers["content-length"]
        assert compared(headed) == compared(got), role
        assert headed.content == b""
    assert (await peopled.anonymous.head(path)).status_code == (await peopled.anonymous.get(path)).status_code


@pytest.mark.parametrize("path", PUBLIC)
async def test_public_paths_answer_head_without_a_key(api: Clients, path: str) -> None:
    got, headed = await api.anonymous.get(path), await api.anonymous.head(path)
    assert compared(headed) == compared(got)
    assert int(headed.headers["content-length"]) > 0
    assert headed.content == b""


async def test_head_honours_a_known_tag(peopled: Clients) -> None:
    tag = (await peopled.admin.head("/users/u-1")).headers["etag"]
    assert (await peopled.admin.head("/users/u-1", headers={"If-None-Match": tag})).status_code == 304


async def test_head_is_audited_as_a_read_and_logged_as_head(
    peopled: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="perennial"):
        await peopled.analyst.head("/users/u-1", headers={"X-Request-Id": "head-1"})
    lines: list[dict[str, Any]] = [vars(each) for each in caplog.records if each.name == "perennial.access"]
    assert [(line["method"], line["route"], line["status"]) for line in lines] == [
        ("HEAD", "/users/{user_id}", 200)
    ]
    rows = (await peopled.admin.get("/audit?user_id=u-1&limit=1")).json()["data"]
    assert (rows[0]["action"], rows[0]["request_id"]) == ("users.read", "head-1")


async def test_head_of_a_path_without_get_is_405(api: Clients) -> None:
    answer = await api.admin.head("/events")
    assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "POST", b"")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/users", "GET, HEAD, POST"),
        ("OPTIONS", "/users", "GET, HEAD, POST"),
        ("DELETE", "/users/u-1", "GET, HEAD, PATCH"),
        ("POST", "/health/live", "GET, HEAD"),
        ("POST", "/docs", "GET, HEAD"),
        ("GET", "/events", "POST"),
        ("POST", "/users/u-1/consents/marketing", "DELETE, PUT"),
    ],
)
async def test_allow_names_the_methods_of_the_path(api: Clients, method: str, path: str, allowed: str) -> None:
    answer = await api.admin.request(method, path)
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed
