"""The conventions that hold for every request and every answer."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI

from api.app import create_app
from api.guard import GuardedRoute, public
from api.resources import Resources
from models.vocabulary import Role
from runtime.database import Database
from runtime.settings import Settings
from tests.support.builders import user
from tests.support.http import BASE_URL, Clients, assert_problem, bearer, field_errors, new_key

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/users"), ("GET", "/nowhere"), ("PUT", "/users"), ("GET", "/health/live"), ("GET", "/docs")],
)
@pytest.mark.parametrize("given", ["my-id_1.2", None, "has space", "x" * 129, "", "caf\u00e9"])
async def test_every_answer_carries_a_request_id(api: Clients, method: str, path: str, given: str | None) -> None:
    headers = [] if given is None else [(b"X-Request-Id", given.encode("latin-1"))]
    answer = await api.anonymous.request(method, path, headers=headers)
    request_id = answer.headers["x-request-id"]
    if given == "my-id_1.2":
        assert request_id == given
    else:
        assert request_id != given
        assert len(request_id) == 32
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["ratelimit"]
    assert answer.headers["ratelimit-policy"]


async def test_answers_forbid_caching(api: Clients) -> None:
    for path in ("/users", "/nowhere", "/health/live"):
        assert (await api.admin.get(path)).headers["cache-control"] == "no-store"
    assert "max-age" in (await api.admin.get("/docs")).headers["cache-control"]


@pytest.mark.parametrize(
    "path", ["/nowhere", "/users/", "/users/a/b", "//users", "/%ff%fe", "/users/x%2Fy", "/%00"]
)
async def test_an_unknown_path_is_not_found(api: Clients, path: str) -> None:
    assert_problem(await api.admin.get(path), 404, "not_found")


async def test_a_405_names_the_methods_of_the_path(api: Clients) -> None:
    answer = await api.anonymous.put("/users")
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"
    assert (await api.anonymous.delete("/users/u-1")).headers["allow"] == "GET, HEAD, PATCH"
    assert (await api.anonymous.request("NONSENSE", "/health/live")).headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"nonsense",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": "\xff"}',
        b'{"a": 1} {"b": 2}',
        b"\xef\xbb\xbf{}",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": "\x00"}',
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        b'{"a":' * 400 + b"1" + b"}" * 400,
    ],
)
async def test_invalid_json_is_malformed(api: Clients, content: bytes) -> None:
    assert_problem(await api.admin.post("/users", content=content, headers=JSON), 400, "malformed_json")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 400])
async def test_a_number_outside_the_range_of_a_double_is_rejected(api: Clients, number: str) -> None:
    content = '{"demographics": {"age": [0, ' + number + "]}}"
    answer = await api.admin.post("/users", content=content, headers=JSON)
    assert field_errors(answer) == {("/demographics/age/1", "number_out_of_range")}


@pytest.mark.parametrize("content", [b"[]", b'"text"', b"1", b"null", b"true"])
async def test_a_body_must_be_an_object(api: Clients, content: bytes) -> None:
    assert field_errors(await api.admin.post("/users", content=content, headers=JSON)) == {("", "invalid_type")}


async def test_an_empty_body_counts_as_missing(api: Clients) -> None:
    assert field_errors(await api.admin.post("/users", content=b"", headers=JSON)) == {("", "required")}
    assert field_errors(await api.admin.post("/users")) == {("", "required")}


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "APPLICATION/JSON;charset=UTF-8",
        "application/vnd.crm+json",
    ],
)
async def test_json_media_types_are_accepted(api: Clients, media_type: str) -> None:
    answer = await api.admin.post("/users", content=b"{}", headers={"Content-Type": media_type})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "text/json",
        "application/json; charset=latin-1",
        "",
        "x",
        "*/*",
        f"application/json; a*{'1' * 5000}=x",
        "application/json; a*=x; a*0=y",
    ],
)
async def test_other_media_types_are_rejected(api: Clients, media_type: str) -> None:
    answer = await api.admin.post("/users", content=b"{}", headers={"Content-Type": media_type})
    assert_problem(answer, 415, "unsupported_media_type")


async def test_a_json_patch_is_not_accepted_as_a_merge_patch(api: Clients) -> None:
    headers = {"Content-Type": "application/json-patch+json"}
    answer = await api.admin.patch("/users/u-1", content=b"{}", headers=headers)
    assert_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip", "nonsense"])
async def test_encoded_bodies_are_rejected(api: Clients, encoding: str) -> None:
    answer = await api.admin.post("/users", json=user(), headers={"Content-Encoding": encoding})
    assert_problem(answer, 415, "unsupported_media_type")


async def test_the_identity_encoding_is_accepted(api: Clients) -> None:
    answer = await api.admin.post("/users", json=user(), headers={"Content-Encoding": "identity"})
    assert answer.status_code == 201


async def test_a_body_that_announces_too_many_bytes_is_rejected_unread(
    api: Clients, api_settings: Settings
) -> None:
    async def unread() -> AsyncIterator[bytes]:
        pytest.fail("the body was read")
        yield b""  # type: ignore[unreachable]  # which makes it a generator

    for length in (api_settings.max_body_bytes + 1, 10**40):
        headers = {**JSON, "Content-Length": str(length)}
        answer = await api.admin.post("/users", content=unread(), headers=headers)
        assert_problem(answer, 413, "body_too_large")


async def test_a_body_that_grows_too_large_is_rejected_before_its_end(
    api: Clients, api_settings: Settings
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65536
            yield b" " * 65536

    answer = await api.admin.post("/users", content=endless(), headers=JSON)
    assert_problem(answer, 413, "body_too_large")
    assert sent <= api_settings.max_body_bytes + 2 * 65536


async def test_a_body_of_exactly_the_limit_is_taken(api: Clients, api_settings: Settings) -> None:
    content = json.dumps(user()).encode()
    content += b" " * (api_settings.max_body_bytes - len(content))

    async def in_parts(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    for more in (content + b" ", in_parts(content + b" ")):
        assert_problem(await api.admin.post("/users", content=more, headers=JSON), 413, "body_too_large")
    assert (await api.admin.post("/users", content=content, headers=JSON)).status_code == 201
    again = await api.admin.post("/users", content=in_parts(content), headers=JSON)
    assert_problem(again, 409, "user_exists")


async def test_a_nul_is_rejected_at_any_depth(api: Clients) -> None:
    document = user(name="a\x00b", demographics={"city": "\x00"}, extra=["ok", {"deep\x00": 1}])
    assert field_errors(await api.admin.post("/users", json=document)) == {
        ("/name", "invalid_characters"),
        ("/demographics/city", "invalid_characters"),
        ("/extra/1", "invalid_characters"),
    }
    assert (await api.admin.post("/users", json=user(name="not a NUL: \\u0000"))).status_code == 201


async def test_half_a_surrogate_pair_is_rejected_at_any_depth(api: Clients) -> None:
    document = user(name="a\ud83d", demographics={"city": "\udc00"}, extra=["\U0001f600", {"deep\ud800": 1}])
    assert field_errors(await api.admin.post("/users", content=json.dumps(document), headers=JSON)) == {
        ("/name", "invalid_characters"),
        ("/demographics/city", "invalid_characters"),
        ("/extra/1", "invalid_characters"),
    }


@pytest.mark.parametrize(
    ("query", "errors"),
    [
        ("nonsense=1", {("/query/nonsense", "unknown_parameter")}),
        ("limit=5&limit=6", {("/query/limit", "duplicate_parameter")}),
        ("limit=0", {("/query/limit", "too_small")}),
        ("limit=1001", {("/query/limit", "too_large")}),
        ("limit=x", {("/query/limit", "invalid_type")}),
        ("limit=", {("/query/limit", "invalid_type")}),
        ("limit=1.5", {("/query/limit", "invalid_type")}),
        ("limit=" + "9" * 400, {("/query/limit", "too_large")}),
        ("limit=" + "9" * 5000, {("/query/limit", "too_large")}),
        ("lifecycle_stage=bored", {("/query/lifecycle_stage", "invalid_choice")}),
        ("account_status=%00", {("/query/account_status", "invalid_characters")}),
        ("account_status=%ff", {("/query/account_status", "invalid_characters")}),
        ("cursor=x", {("/query/cursor", "invalid_cursor")}),
        ("cursor=", {("/query/cursor", "invalid_cursor")}),
        ("cursor=bnVsbA", {("/query/cursor", "invalid_cursor")}),
        ("cursor=WyJrZXlzIiwiYSJd", {("/query/cursor", "invalid_cursor")}),
        ("cursor=WyJ1c2VycyIsIlx1MDAwMCJd", {("/query/cursor", "invalid_cursor")}),
        ("cursor=WyJ1c2VycyIsMV0", {("/query/cursor", "invalid_cursor")}),
        ("cursor=" + "x" * 1025, {("/query/cursor", "too_long")}),
        ("cursor=%C3%BC", {("/query/cursor", "invalid_cursor")}),
    ],
)
async def test_query_parameters_are_validated(api: Clients, query: str, errors: set[tuple[str, str]]) -> None:
    found = field_errors(await api.admin.get(f"/users?{query}"))
    assert {pointer for pointer, _ in found} == {pointer for pointer, _ in errors}
    assert found == errors


async def test_a_modified_cursor_is_rejected(api: Clients) -> None:
    for user_id in ("a", "b"):
        await api.admin.post("/users", json=user(user_id))
    cursor = (await api.admin.get("/users?limit=1")).json()["pagination"]["next_cursor"]
    assert (await api.admin.get(f"/users?cursor={cursor}")).json()["data"][0]["user_id"] == "b"
    for changed in (cursor + "A", cursor[:-1], cursor + "=", " " + cursor):
        assert field_errors(await api.admin.get("/users", params={"cursor": changed})) == {
            ("/query/cursor", "invalid_cursor")
        }
    assert (await api.admin.get("/keys", params={"cursor": cursor})).status_code == 422


async def test_no_error_repeats_a_value_that_was_sent(api: Clients) -> None:
    canary = "Canary-7431"
    document: dict[str, Any] = user(
        user_id=f"{canary} x",
        email=canary,
        name=canary * 40,
        signup_date=canary,
        account_status=canary,
        lifecycle_stage=canary,
        lifecycle_stage_pinned=canary,
        demographics={
            "age": canary,
            "date_of_birth": canary,
            "country": canary,
            "timezone": canary,
            "language": canary + "!",
        },
        privacy_preferences={"age": canary},
        consents=canary,
        transactions={"total_revenue": canary},
    )
    answer = await api.admin.post("/users", json=document)
    assert len(answer.json()["errors"]) == 15
    assert canary not in answer.text
    answer = await api.admin.get(f"/users?limit={canary}&cursor={canary}&lifecycle_stage={canary}")
    assert canary not in answer.text


async def test_only_the_first_of_many_errors_are_listed(api: Clients) -> None:
    document = {f"field-{number}": number for number in range(5000)} | {"x" * 1000: 1}
    answer = await api.admin.post("/users", json=document)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 100
    assert "5007 problems" in answer.json()["detail"]


@pytest.mark.parametrize("pointer", ["", "/demographics"])
async def test_an_object_with_far_too_many_fields_gets_one_error(api: Clients, pointer: str) -> None:
    crowd = {f"field-{number}": number for number in range(10_001)}
    document = user("u-1") | ({"demographics": crowd} if pointer else crowd)
    answer = await api.admin.post("/users", json=document)
    assert field_errors(answer) == {(pointer, "too_many_fields")}


@pytest.fixture
async def fragile(resources: Resources) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """An application with a route that raises an error with personal data in its text."""
    app = create_app(resources)
    router = APIRouter(route_class=GuardedRoute)

    @router.get("/fragile")
    @public
    async def fragile() -> None:
        raise LookupError("ada@example.com is not here")

    app.include_router(router)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client:
        yield app, client


async def test_an_unexpected_failure_reveals_nothing_and_is_logged_without_its_text(
    fragile: tuple[FastAPI, httpx.AsyncClient], caplog: pytest.LogCaptureFixture
) -> None:
    _, client = fragile
    with caplog.at_level(logging.INFO):
        answer = await client.get("/fragile", headers={"X-Request-Id": "r-1"})
    problem = assert_problem(answer, 500, "internal_error")
    assert "Lookup" not in answer.text
    assert problem["request_id"] == "r-1"
    (record,) = (each for each in caplog.records if each.message == "unexpected failure")
    assert vars(record)["request_id"] == "r-1"
    assert vars(record)["failure"]["type"] == "builtins.LookupError"
    assert "ada@" not in str([vars(each) for each in caplog.records if each.name.startswith("perennial")])


async def test_the_access_log_contains_routes_and_no_user_ids(
    api: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="perennial"):
        await api.admin.get("/users/canary-1?limit=5")
        await api.admin.post("/users", json=user("canary-2"))
        await api.anonymous.get("/canary-3", headers={"X-Request-Id": "r-9"})
    lines = [vars(record) for record in caplog.records if record.name == "perennial.access"]
    assert [(line["method"], line["route"], line["status"]) for line in lines] == [
        ("GET", "/users/{user_id}", 422),
        ("POST", "/users", 201),
        ("GET", "(none)", 404),
    ]
    assert lines[0]["key_id"].startswith("key_")
    assert lines[2]["request_id"] == "r-9"
    assert all(line["ms"] >= 0 for line in lines)
    assert "canary" not in str(lines)


async def test_a_403_still_shows_the_keys_own_quota(api: Clients, database: Database) -> None:
    key = bearer(await new_key(database, Role.ANALYST, rate_limit=7))
    answer = await api.anonymous.post("/users", headers=key)
    assert_problem(answer, 403, "forbidden")
    assert answer.headers["ratelimit-policy"] == '"default";q=7;w=60'
