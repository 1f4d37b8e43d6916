"""Requests without a valid key: throttled by address, without a statement in Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from api.resources import Resources
from api.throttle import FailureThrottle
from checks.health import Health, Report
from models.errors import TooManyRequestsError
from models.vocabulary import Role
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings
from store import api_keys
from tests.support.http import BASE_URL, application, assert_problem, bearer, new_key

LIMIT = 5


@pytest.fixture
async def throttled(
    api_settings: Settings, database: Database, limiter: Database, cipher: Cipher
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API that takes five failures a minute."""
    settings = api_settings.model_copy(update={"failed_authentications_per_minute": LIMIT})
    app = application(Resources(settings, database, limiter, cipher, None))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE_URL, trust_env=False) as client:
        yield client


async def test_wrong_keys_of_an_address_are_429_before_they_are_looked_up(
    throttled: httpx.AsyncClient, database: Database
) -> None:
    valid, later = await new_key(database, Role.ADMIN), await new_key(database, Role.ADMIN)
    assert (await throttled.get("/keys", headers=bearer(valid))).status_code == 200
    for number in range(LIMIT):
        wrong = api_keys.new_secret() if number % 2 else "prn_mistyped"
        assert_problem(await throttled.get("/keys", headers=bearer(wrong)), 401, "unauthenticated")
    for headers in (bearer(api_keys.new_secret()), bearer("prn_mistyped"), {}, bearer(later)):
        answer = await throttled.get("/keys", headers=headers)
        assert_problem(answer, 429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= 60 / LIMIT + 1
    assert (await throttled.get("/keys", headers=bearer(valid))).status_code == 200
    assert (await throttled.get("/health/live")).status_code == 200


async def test_requests_without_a_key_count_half(throttled: httpx.AsyncClient) -> None:
    statuses = [(await throttled.get("/keys")).status_code for _ in range(2 * LIMIT + 3)]
    assert statuses[: 2 * LIMIT] == [401] * 2 * LIMIT
    assert statuses[2 * LIMIT + 1 :] == [429] * 2


async def test_a_key_that_was_revoked_is_throttled_as_an_unknown_one(
    throttled: httpx.AsyncClient, database: Database
) -> None:
    await new_key(database, Role.ADMIN)
    secret = await new_key(database, Role.ANALYST)
    assert (await throttled.get("/users", headers=bearer(secret))).status_code == 200
    async with database.connection() as connection:
        [newest] = [key for key in await api_keys.list_keys(connection) if Role.ANALYST in key.roles][-1:]
        await api_keys.revoke(connection, newest.key_id)
    statuses = [(await throttled.get("/users", headers=bearer(secret))).status_code for _ in range(LIMIT + 2)]
    assert statuses == [401] * LIMIT + [429] * 2


def test_an_address_recovers_and_others_are_not_affected(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    throttle = FailureThrottle(60)
    for _ in range(60):
        throttle.check("2001:db8::1", "x")
        throttle.fail("2001:db8::1", "x")
    with pytest.raises(TooManyRequestsError):
        throttle.check("2001:db8::ffff", None)  # the same network
    for other in ("2001:db8:0:1::1", "192.0.2.1", None):
        throttle.check(other, "x")
    now += 1.0
    throttle.check("2001:db8::1", "x")
    throttle.fail("2001:db8::1", "x")
    with pytest.raises(TooManyRequestsError):
        throttle.check("2001:db8::1", "x")


async def test_a_flood_on_ready_asks_the_dependencies_once_a_second(
    throttled: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    look = Health._look

    async def counted(health: Health) -> Report:
        nonlocal asked
        asked += 1
        return await look(health)

    monkeypatch.setattr(Health, "_look", counted)
    for _ in range(50):
        assert (await throttled.get("/health/ready")).json()["checks"]["postgres"]["status"] == "ok"
    assert asked <= 2
