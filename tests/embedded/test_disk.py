"""No personal data is readable on the disk of a stack: in data and WAL of Postgres, data of Temporal, or logs."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from runtime.embedded import postgres_files
from runtime.embedded.home import Home
from testing.mail import MailServer
from tests.embedded.running import RunningStack
from tests.support.builders import user
from tests.support.disk import Canaries
from tests.support.events import event

# Canaries too: the parameters of the onboarding can only be durations.
WAIT = {"first_activity_within": "P11DT7H41M23S", "nudge_within": "P13DT5H43M29S"}


@pytest.fixture
def canaries() -> Canaries:
    return Canaries(f"kanarie{secrets.token_hex(4)}")


def person(user_id: str, canaries: Canaries) -> dict[str, Any]:
    called = canaries.called
    return user(
        user_id,
        email=f"{called(user_id)}@{called('host')}.example.com",
        name=f"{called('name')} {called('surname')}",
        demographics={"gender": called("gender"), "city": called("city"), "device_type": called("device")},
        consents={"data_collection": True},
    )


def events_of(user_id: str, canaries: Canaries) -> list[dict[str, Any]]:
    called = canaries.called
    signup = {"email": called("property"), "note": [{"deep": called("deep")}], called("key"): 1}
    around = {
        "device_info": {"device_id": called("device-id"), "type": called("device-type")},
        "location": {"city": called("location"), "country": called("country")},
        "referrer": f"https://{called('referrer')}.example/{called('path')}?q={called('query')}",
    }
    paid = {"order_id": called("order"), "amount": "1.00", "currency": "USD", "coupon": called("coupon")}
    return [
        event(f"{user_id}-1", user_id, event_type="user.login", event_properties=signup, **around),
        event(f"{user_id}-2", user_id, event_type="transaction.purchase_complete", event_properties=paid),
        event(f"{user_id}-3", user_id, event_properties=signup),
        event(
            f"{user_id}-4",
            user_id,
            event_type="user.signup",
            timestamp=datetime.now(UTC).isoformat(),
            event_properties=signup | {"plan": called("dimension")},
        ),
    ]


async def until(request: Callable[[], Awaitable[httpx.Response]], holds: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(30):
        while not holds(answer := (await request()).json()):
            await asyncio.sleep(0.05)
    return answer


def reject_by_name(mail: MailServer) -> None:
    """Make the mail server quote the address where it rejects one, as real ones do."""

    def decide(address: str) -> None:
        mail.refuse_recipients = None
        for name, code in (("u-gone", "550"), ("u-busy", "450")):
            if name in address:
                mail.refuse_recipients = f"{code} <{address}> can't be reached"

    mail.on_recipient = decide


async def run(api: httpx.AsyncClient, user_id: str, holds: Callable[[Any], bool]) -> Any:
    """Start an onboarding and wait for a condition on its instance."""
    body = {"user_id": user_id, "parameters": WAIT, "max_attempts": 1, "again": True}
    answer = await api.post("/workflows/onboarding/execute", json=body)
    assert answer.status_code == 202, answer.text
    instance = await until(lambda: api.get(answer.headers["location"]), holds)
    assert instance["parameters"] == WAIT
    return instance


async def fill(api: httpx.AsyncClient, canaries: Canaries) -> None:
    """Store people and events, and run workflows that succeed or fail."""
    people = [person(user_id, canaries) for user_id in ("u-well", "u-gone", "u-busy")]
    for each in people:
        key = {"Idempotency-Key": canaries.called("idempotency")}
        answer = await api.post("/users", json=each, headers=key if each is people[0] else {})
        assert answer.status_code == 201, answer.text
    answer = await api.post("/events/batch", json={"events": events_of("u-well", canaries)})
    assert answer.json()["accepted"] == 4, answer.text
    instances = "/workflows/onboarding/instances?user_id=u-well"
    await until(lambda: api.get(instances), lambda seen: len(seen["data"]) == 1)  # by the event
    await run(api, "u-well", lambda seen: seen["current_step"] == "wait_for_first_activity")
    await run(api, "u-gone", lambda seen: seen["status"] == "failed")
    busy = await run(api, "u-busy", lambda seen: seen["status"] == "failed")
    assert canaries.called("u-busy") in busy["error"]["error_message"], "a failure quotes the address"
    orders = await until(lambda: api.get("/users/u-well/transactions"), lambda seen: seen["data"])
    assert orders["data"][0]["order_id"] == canaries.called("order")


async def exported(api: httpx.AsyncClient, canaries: Canaries) -> None:
    """Assert that the export holds everything that is stored of a person, in the clear."""
    text = (await api.get("/users/u-well/export")).text
    for place in ("u-well", "surname", "gender", "city", "property", "deep", "device-id", "location", "referrer"):
        assert canaries.called(place) in text, place
    held = json.loads(text)
    assert canaries.called("order") in {each["order_id"] for each in held["transactions"]}
    assert any(canaries.called("u-well") in each["recipient"] for each in held["messages"])
    busy = (await api.get("/users/u-busy/export")).json()
    for error in (busy["instances"][0]["error"], busy["dead_letters"][0]["error"], busy["attempts"][-1]):
        assert canaries.called("u-busy") in error["error_message"]


async def send_nonsense(api: httpx.AsyncClient, canaries: Canaries) -> None:
    """Send requests that the API rejects; their content must not be logged either."""
    called = canaries.called
    bad_user = person("u-bad", canaries) | {"email": called("no-address"), "account_status": called("status")}
    bad_event = event("e-bad", "u-well", timestamp=called("when"), event_properties={"x": called("x")})
    parameters = {"first_activity_within": called("duration")}
    answers = [
        await api.post("/users", json=bad_user),
        await api.post("/users", json=person("u-well", canaries)),
        await api.post("/users", content=b'{"email": "' + called("broken").encode()),
        await api.patch("/users/u-well", json={"demographics": {called("unknown"): 1}}),
        await api.post("/events", json=bad_event),
        await api.post("/workflows/onboarding/execute", json={"user_id": "u-well", "parameters": parameters}),
        await api.get(f"/users/{called('path')}"),
        await api.get("/users", params={"email": called("search"), "cursor": called("cursor")}),
        await api.get("/users", headers={"Authorization": f"Bearer {called('key')}"}),
    ]
    assert all(400 <= each.status_code < 500 for each in answers)
    assert (await api.post("/users/search", json={"email": person("u-well", canaries)["email"]})).json()["data"]


@asynccontextmanager
async def running(home: Path, mail: MailServer) -> AsyncIterator[RunningStack]:
    stack = RunningStack(home, environment={"PERENNIAL_SMTP_URL": mail.url, "PERENNIAL_LOG_LEVEL": "DEBUG"})
    try:
        await asyncio.to_thread(stack.wait_until_up)
        yield stack
    finally:
        if stack.process.poll() is None:
            await asyncio.to_thread(stack.stop)


async def checkpoint(stack: RunningStack) -> None:
    postgres = urlsplit(stack.endpoints["postgres"])
    password = Home(stack.home).secret("postgres-superuser")
    url = f"postgresql://{postgres_files.SUPERUSER}:{password}@{postgres.hostname}:{postgres.port}/postgres"
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


@pytest.mark.slow
async def test_no_canary_is_on_the_disk_of_a_whole_stack(directory: Path, canaries: Canaries) -> None:
    async with MailServer() as mail, running(directory / "home", mail) as stack:
        reject_by_name(mail)
        key = Path(stack.endpoints["admin_key_file"]).read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=stack.endpoints["api"], headers=headers, trust_env=False) as api:
            limit = await api.post("/keys", json={"name": "filling", "role": "admin", "rate_limit": 1_000_000})
            api.headers["Authorization"] = f"Bearer {limit.json()['key']}"
            await fill(api, canaries)
            await exported(api, canaries)
            await send_nonsense(api, canaries)
        assert mail.received, "messages have left, with canaries in them"
        await checkpoint(stack)
        assert (await asyncio.to_thread(stack.stop))[0] == 0

    found = canaries.found_in(directory)
    assert {canary for canary, _ in found} == {canaries.called("dimension")}, found
    assert {path.split("/")[2] for _, path in found} >= {"base", "pg_wal"}, "the search reaches data and WAL"
    for parameter in WAIT.values():
        assert not files_with(directory, parameter.encode())
    reached = {path.relative_to(directory / "home").parts[0] for path in files_with(directory / "home", b"u-well")}
    assert reached >= {"postgres", "temporal"}, "the search reaches Temporal's state"
    assert any((directory / "home" / "logs").rglob("*.log")), "there are logs to be searched"


def files_with(directory: Path, needle: bytes) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and needle in path.read_bytes()]


@pytest.mark.parametrize(
    "write",
    [
        lambda text: text.encode(),
        lambda text: text.title().encode(),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"),
        lambda text: base64.b64encode(text.encode()),
        lambda text: base64.b64encode(b"x" + text.encode()),
        lambda text: base64.b64encode(b"xy" + text.encode()),
        lambda text: text.encode().hex().encode(),
    ],
)
def test_the_search_finds_a_canary_in_every_form(
    tmp_path: Path, canaries: Canaries, write: Callable[[str], bytes]
) -> None:
    (tmp_path / "other").write_bytes(b"\x00" * 100)
    assert canaries.found_in(tmp_path) == set()
    (tmp_path / "file").write_bytes(b"\x00" * 100 + write(canaries.called("here")) + b"\xff")
    assert {path for _, path in canaries.found_in(tmp_path)} == {"file"}
