"""`/codec/decode`: for admins, and for the embedded stack's own Web UI."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
from google.protobuf import json_format
from temporalio.api.common.v1 import Payload
from temporalio.client import Client

from api.resources import Resources, limiter_database
from models.temporal.system import retention_id
from models.vocabulary import Role
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from testing.people import Customer
from tests.support.http import Clients, application, assert_problem, field_errors
from tests.workflows_api.conftest import execute
from tests.workflows_api.test_audit import rows_of

UI = "http://127.0.0.1:8233"
TOKEN = "a1" * 24


async def _encrypted(temporal: Client, api: Clients, customer: Customer) -> dict[str, Any]:
    """The first input of an instance, as the Web UI reads it."""
    instance = (await execute(api, customer)).json()
    handle = temporal.get_workflow_handle(instance["temporal"]["workflow_id"])
    async for event in handle.fetch_history_events():
        [payload] = event.workflow_execution_started_event_attributes.input.payloads
        break
    await handle.terminate()
    return json_format.MessageToDict(payload)


async def test_only_an_admin_decrypts_payloads_of_a_history(
    api: Clients, customer: Customer, temporal: Client
) -> None:
    encrypted = await _encrypted(temporal, api, customer)
    answer = await api.admin.post(
        "/codec/decode", json={"payloads": [encrypted, encrypted]}, headers={"origin": UI}
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == UI
    opened = [json_format.ParseDict(each, Payload()) for each in answer.json()["payloads"]]
    assert len(opened) == 2
    assert customer.user_id.encode() in opened[0].data
    for role in (Role.OPERATOR, Role.ANALYST, Role.INTEGRATOR):
        assert_problem(await api.of(role).post("/codec/decode", json={"payloads": [encrypted]}), 403, "forbidden")
    assert_problem(await api.anonymous.post("/codec/decode", json={"payloads": []}), 401, "unauthenticated")


async def test_payloads_of_the_system_namespace_are_decrypted_too(api: Clients, system: Client) -> None:
    answer = await api.admin.post("/retention/run", json={"dry_run": False})
    handle = system.get_workflow_handle(retention_id(answer.json()["run_id"]))
    async for event in handle.fetch_history_events():
        [payload] = event.workflow_execution_started_event_attributes.input.payloads
        break
    await handle.terminate()
    opened = await api.admin.post(
        f"/codec/decode?namespace={system.namespace}",
        json={"payloads": [json_format.MessageToDict(payload)]},
        headers={"origin": UI, "x-namespace": system.namespace},
    )
    assert opened.status_code == 200, opened.text
    [decoded] = [json_format.ParseDict(each, Payload()) for each in opened.json()["payloads"]]
    assert json.loads(decoded.data)["run_id"] == answer.json()["run_id"]


async def test_the_audit_log_names_the_people_whose_payloads_were_decrypted(
    api: Clients,
    embedded: dict[str, httpx.AsyncClient],
    customer: Customer,
    temporal: Client,
    database: Database,
) -> None:
    """Also by the token's path, in the Web UI's name. A user id that was sent in the clear is ignored."""
    encrypted = await _encrypted(temporal, api, customer)
    plain = Payload(metadata={"encoding": b"json/plain"}, data=b'{"user_id": "u-anybody"}')
    body = {"payloads": [encrypted, json_format.MessageToDict(plain)]}
    said = {"action": "payloads.decode", "user_id": None, "subjects": [customer.user_id], "outcome": "done"}
    assert (await api.admin.post("/codec/decode", json=body, headers={"X-Request-Id": "r-key"})).is_success
    path, headers = f"/codec/{TOKEN}/decode", {"X-Request-Id": "r-token"}
    assert (await embedded["local"].post(path, json=body, headers=headers)).is_success
    for request_id, role in (("r-key", "admin"), ("r-token", "system")):
        [row] = await rows_of(database, request_id)
        assert row == {**said, "role": role, "details": {"payloads": 2}}


async def test_payloads_that_the_audit_log_cannot_attribute_are_not_decrypted(
    api: Clients,
    embedded: dict[str, httpx.AsyncClient],
    customer: Customer,
    temporal: Client,
    owner: asyncpg.Connection[asyncpg.Record],
) -> None:
    body = {"payloads": [await _encrypted(temporal, api, customer)]}
    await owner.execute("ALTER TABLE audit_log ADD CONSTRAINT shut CHECK (action <> 'payloads.decode') NOT VALID")
    try:
        for client, path in ((api.admin, "/codec/decode"), (embedded["local"], f"/codec/{TOKEN}/decode")):
            answer = await client.post(path, json=body)
            assert answer.status_code == 500
            assert "payloads" not in answer.json()
    finally:
        await owner.execute("ALTER TABLE audit_log DROP CONSTRAINT shut")


async def test_a_payload_that_cannot_be_decrypted_is_422_with_a_pointer(
    api: Clients, customer: Customer, temporal: Client
) -> None:
    encrypted = await _encrypted(temporal, api, customer)
    spoilt = {**encrypted, "data": encrypted["data"][:-8] + "AAAAAAA="}
    body = {"payloads": [encrypted, spoilt, {"data": 5}, {"metadata": 3}]}
    assert field_errors(await api.admin.post("/codec/decode", json=body)) == {
        (f"/payloads/{place}", "undecodable") for place in (1, 2, 3)
    }
    assert (await api.admin.post("/codec/decode", json={"payloads": {}})).status_code == 422
    plain = {"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "MQ=="}
    assert (await api.admin.post("/codec/decode", json={"payloads": [plain]})).json() == {"payloads": [plain]}


async def test_only_pages_of_the_web_ui_may_call_it(api: Clients) -> None:
    allowed = await api.anonymous.options("/codec/decode?preserveStorageRefs=true", headers={"origin": UI})
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == UI
    assert {"content-type", "x-namespace", "authorization"} <= set(
        allowed.headers["access-control-allow-headers"].split(",")
    )
    other = await api.anonymous.options("/codec/decode", headers={"origin": "https://evil.example.com"})
    assert "access-control-allow-origin" not in other.headers


@pytest.fixture
async def embedded(
    settings: Settings, temporal: Client, database: Database, database_url: str, cipher: Cipher
) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    """Clients without a key: of an API by its address, by another host name, and of a production API."""
    limiter = limiter_database(database_url)
    await limiter.open()
    tokened = settings.model_copy(update={"codec_token": TOKEN})
    clients = {}
    for name, base, environment in (
        ("local", "http://127.0.0.1:8080", "embedded"),
        ("rebound", "http://evil.example.com:8080", "embedded"),
        ("production", "http://127.0.0.1:8080", "production"),
    ):
        chosen = tokened.model_copy(update={"environment": environment})
        app = application(Resources(chosen, database, limiter, cipher, temporal))
        clients[name] = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base, trust_env=False)
    yield clients
    for client in clients.values():
        await client.aclose()
    await limiter.close()


async def test_the_embedded_stacks_web_ui_needs_no_key_but_its_token(
    embedded: dict[str, httpx.AsyncClient], api: Clients, customer: Customer, temporal: Client
) -> None:
    body = {"payloads": [await _encrypted(temporal, api, customer)]}
    path = f"/codec/{TOKEN}/decode?preserveStorageRefs=true"  # as the Web UI calls it
    assert (await embedded["local"].post(path, json=body)).status_code == 200
    assert (await embedded["local"].options(path, headers={"origin": UI})).status_code == 204
    for refused in (
        await embedded["local"].post(f"/codec/{TOKEN[:-1]}b/decode", json=body),
        await embedded["rebound"].post(path, json=body),
        await embedded["production"].post(path, json=body),
        await api.anonymous.post(path, json=body),
    ):
        assert_problem(refused, 404, "not_found")


async def test_without_the_token_the_body_is_not_read(embedded: dict[str, httpx.AsyncClient]) -> None:
    """So the answer is the same for every body, and doesn't reveal that the path exists."""
    read: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        read.append(b"{")
        yield b"{"

    for client in embedded.values():
        wrong = await client.post(f"/codec/{TOKEN[:-1]}b/decode?x=1", content=body())
        assert_problem(wrong, 404, "not_found")
        assert_problem(await client.options(f"/codec/{TOKEN[:-1]}b/decode"), 404, "not_found")
    assert_problem(await embedded["production"].get(f"/codec/{TOKEN}/decode"), 404, "not_found")
    assert read == []
