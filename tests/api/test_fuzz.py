"""Any request gets an answer of the contract, never a 5xx."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.rules.profile import CORE, DEMOGRAPHICS
from models.rules.taxonomy import STANDARD
from models.vocabulary import Purpose
from tests.support.builders import user
from tests.support.events import event, purchase
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


EVENT_NAMES = st.sampled_from(
    [
        *event(),
        *("event_properties", "device_info", "location", "referrer", "historical", "events"),
        *("granted", "source", "policy_version", "legal_basis", "days"),
        *(
            "schema",
            "pii",
            "dimensions",
            "description",
            "type",
            "properties",
            "required",
            "pattern",
            "$ref",
            "enum",
        ),
    ]
)
EVENT_TEXTS = TEXTS | st.sampled_from(
    [
        *STANDARD,
        "lesson.finish",
        "object",
        "/course",
        "#",
        "USD",
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00-23:59",
    ]
)
EVENT_OBJECTS = st.dictionaries(
    EVENT_NAMES | st.text(),
    st.recursive(
        SCALARS | EVENT_TEXTS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(EVENT_NAMES | st.text(), inner, max_size=6),
        max_leaves=25,
    ),
    max_size=8,
)
PURCHASE = purchase()["event_properties"]


async def send(api: Clients, method: str, path: str, **content: Any) -> None:
    """Send a request, and check that its answer is a known one with all headers."""
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
    grant = {"user_id": "u-1", "purpose": "marketing", "granted": True}
    consents = json.dumps({"consents": [grant | document, document, grant]}).encode()
    await send(api, "POST", "/consents/batch", content=consents, headers=headers)


@FUZZ
@given(content=st.binary(max_size=200), media_type=st.sampled_from(["application/json", "application/a+json"]))
async def test_any_bytes(api: Clients, content: bytes, media_type: str) -> None:
    await send(api, "POST", "/users", content=content, headers={"Content-Type": media_type})


@FUZZ
@given(
    parameters=st.lists(
        st.text("ac*0=\"' ", max_size=8) | st.sampled_from(["a*=", "a*0=", "charset="]), max_size=4
    )
)
async def test_any_parameters_of_a_media_type(api: Clients, parameters: list[str]) -> None:
    media_type = ";".join(["application/json", *parameters])
    await send(api, "POST", "/users", content=b"{}", headers={"Content-Type": media_type})


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
    await send(api, method, f"/users/{escaped}/events")
    await send(api, method, f"/users/{escaped}/consents/{escaped}")
    await send(api, method, f"/events/types/{escaped}")
    await send(api, method, f"/poison-events/{escaped}/replay")
    await send(api, method, f"/retention/{escaped}")


@FUZZ
@given(document=EVENT_OBJECTS, complete=st.booleans(), event_type=EVENT_TEXTS, inside=EVENT_OBJECTS)
async def test_any_event(
    api: Clients, document: dict[str, Any], complete: bool, event_type: str, inside: dict[str, Any]
) -> None:
    await api.admin.post("/users", json=user(consents={"data_collection": True}))
    whole = event() | {"event_type": event_type, "event_properties": inside} | document if complete else document
    bought = purchase() | {"event_properties": PURCHASE | inside, "device_info": inside, "location": inside}
    headers = {"Content-Type": "application/json"}
    for each in (whole, bought):
        await send(api, "POST", "/events", content=json.dumps(each).encode(), headers=headers)
    batch = json.dumps({"events": [whole, document, bought, event(), *inside.values()]} | inside).encode()
    await send(api, "POST", "/events/batch", content=batch, headers=headers)
    for client in (api.admin, api.analyst):
        assert (await client.get("/users/u-1/events", params={"limit": 3})).status_code == 200


@FUZZ
@given(
    document=st.fixed_dictionaries(
        {},
        optional={
            "per_second": st.floats() | st.integers() | SCALARS,
            "limit": st.integers() | SCALARS,
            **dict.fromkeys(("status", "workflow_id", "user_id", "failed_step", "created_after"), EVENT_TEXTS),
        },
    )
)
async def test_any_replay(api: Clients, document: dict[str, Any]) -> None:
    content = json.dumps(document).encode()
    await send(api, "POST", "/dead-letters/replay", content=content, headers={"Content-Type": "application/json"})


@FUZZ
@given(document=EVENT_OBJECTS, schema=EVENT_OBJECTS, complete=st.booleans())
async def test_any_declaration_consent_and_retention(
    api: Clients, document: dict[str, Any], schema: dict[str, Any], complete: bool
) -> None:
    await api.admin.post("/users", json=user(consents={"data_collection": True}))
    headers = {"Content-Type": "application/json"}
    for path, needed in (
        ("/events/types/lesson.finish", {"schema": schema}),
        ("/users/u-1/consents/marketing", {"granted": True}),
        ("/retention/events", {"days": 365}),
    ):
        content = json.dumps(needed | document if complete else document).encode()
        await send(api, "PUT", path, content=content, headers=headers)
    sent = json.dumps(event(event_properties=document)).encode()
    await send(api, "POST", "/events", content=sent, headers=headers)


@FUZZ
@given(
    names=st.lists(st.sampled_from(["limit", "cursor", "status"]) | TEXTS, max_size=4),
    value=TEXTS | st.integers().map(str),
    position=st.lists(EVENT_TEXTS, max_size=4),
)
async def test_any_query_of_events(api: Clients, names: list[str], value: str, position: list[str]) -> None:
    await api.admin.post("/users", json=user())
    parameters = [(name, value) for name in names if name.isprintable() and value.isprintable()]
    for name, path in (
        ("user-events", "/users/u-1/events"),
        ("transactions", "/users/u-1/transactions"),
        ("consent-history", "/users/u-1/consents/history"),
        ("poison-events", "/poison-events"),
        ("event-types", "/events/types"),
    ):
        await send(api, "GET", path, params=parameters)
        made = base64.urlsafe_b64encode(json.dumps([name, *position]).encode()).decode().rstrip("=")
        compact = json.dumps([name, *position], separators=(",", ":"), ensure_ascii=False)
        again = base64.urlsafe_b64encode(compact.encode(errors="replace")).decode().rstrip("=")
        for cursor in (made, again):
            await send(api, "GET", path, params={"cursor": cursor})
