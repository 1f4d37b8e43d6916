"""Whatever is sent, the answer is one that the contract knows: never a 5xx."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.rules.profile import CORE, DEMOGRAPHICS
from models.vocabulary import Purpose
from tests.support.builders import user
from tests.support.http import Clients

FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)

NAMES = st.sampled_from(
    [
        "user_id",
        *CORE,
        *DEMOGRAPHICS,
        *Purpose,
        "demographics",
        "privacy_preferences",
        "consents",
        "transactions",
        "subscription_tier",
        "behavior",
        "users",
    ]
)
TEXTS = st.text() | st.sampled_from(
    [
        "u-1",
        "ada@example.com",
        "2026-01-05T10:00:00Z",
        "active",
        "DE",
        "1990-01-01",
        "Europe/Berlin",
        "\x00",
        "../x",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(), inner, max_size=6),
    max_leaves=25,
)
OBJECTS = st.dictionaries(NAMES | st.text(), DOCUMENTS, max_size=8)


async def send(api: Clients, method: str, path: str, **content: Any) -> None:
    """Send something, and check that the answer is a known one with all its headers."""
    answer = await api.admin.request(method, path, **content)
    assert answer.status_code < 500, answer.text
    assert answer.headers["x-request-id"]
    assert answer.headers["ratelimit"]
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"]


@FUZZ
@given(document=OBJECTS, complete=st.booleans())
async def test_any_document(api: Clients, document: dict[str, Any], complete: bool) -> None:
    whole = user() | document if complete else document
    headers = {"Content-Type": "application/json"}
    content = json.dumps(whole).encode()  # also NaN and lone surrogates, which strict encoders refuse
    await send(api, "POST", "/users", content=content, headers=headers)
    await send(api, "PATCH", "/users/u-1", content=content, headers=headers)
    await send(api, "POST", "/keys", content=content, headers=headers)
    await send(api, "POST", "/users/search", content=content, headers=headers)
    batch = json.dumps({"users": [whole, document, user("u-2")]}).encode()
    await send(api, "POST", "/users/batch", content=batch, headers=headers)


@FUZZ
@given(content=st.binary(max_size=200), media_type=st.sampled_from(["application/json", "application/a+json"]))
async def test_any_bytes(api: Clients, content: bytes, media_type: str) -> None:
    await send(api, "POST", "/users", content=content, headers={"Content-Type": media_type})


@FUZZ
@given(
    names=st.lists(st.sampled_from(["limit", "cursor", "lifecycle_stage", "account_status"]) | TEXTS, max_size=4),
    value=TEXTS | st.integers().map(str),
)
async def test_any_query(api: Clients, names: list[str], value: str) -> None:
    parameters = [(name, value) for name in names if name.isprintable() and value.isprintable()]
    await send(api, "GET", "/users", params=parameters)
    await send(api, "GET", "/keys", params=parameters)


@FUZZ
@given(
    name=st.sampled_from(
        [
            "Content-Type",
            "Content-Encoding",
            "Idempotency-Key",
            "If-Match",
            "If-None-Match",
            "X-Request-Id",
            "Prefer",
            "Accept",
            "Range",
            "Transfer-Encoding",
            "Cookie",
        ]
    ),
    value=st.binary(max_size=60),
)
async def test_any_header(api: Clients, name: str, value: bytes) -> None:
    headers = [(name.encode(), value)]
    await send(api, "POST", "/users", json=user(), headers=headers)
    await send(api, "PATCH", "/users/u-1", json={"name": "X"}, headers=headers)
    await send(api, "GET", "/users/u-1", headers=headers)


@FUZZ
@given(path=st.binary(min_size=1, max_size=40), method=st.sampled_from(["GET", "PATCH", "DELETE", "POST", "X"]))
async def test_any_path(api: Clients, path: bytes, method: str) -> None:
    escaped = "".join(f"%{byte:02x}" for byte in path)
    await send(api, method, f"/users/{escaped}")
    await send(api, method, f"/keys/{escaped}")
    await send(api, method, f"/{escaped}")
    await send(api, method, f"/workflows/{escaped}/instances/{escaped}")
