"""The limit of requests a minute for a key: exact, and announced in the headers."""

from __future__ import annotations

import asyncio
import re

import pytest

from models.vocabulary import Role
from runtime.database import Database
from store.connection import Connection
from tests.support.http import Clients, assert_problem, bearer, new_key


def limit_of(headers: object) -> tuple[int, int, int]:
    """Quota, remaining requests and seconds to the reset, from the two headers."""
    policy, state = headers["ratelimit-policy"], headers["ratelimit"]  # type: ignore[index]
    quota = re.fullmatch(r'"default";q=(\d+);w=60', policy)
    rest = re.fullmatch(r'"default";r=(\d+);t=(\d+)', state)
    assert quota
    assert rest
    return int(quota[1]), int(rest[1]), int(rest[2])


async def test_the_default_limit_is_a_hundred(api: Clients, database: Database) -> None:
    key = bearer(await new_key(database, Role.ADMIN, rate_limit=None))
    answer = await api.anonymous.get("/users", headers=key)
    quota, remaining, reset = limit_of(answer.headers)
    assert (quota, remaining) == (100, 99)
    assert 1 <= reset <= 60


async def test_each_request_counts_down_and_the_first_above_the_limit_is_429(
    api: Clients, database: Database
) -> None:
    key = bearer(await new_key(database, Role.ADMIN, rate_limit=3))
    for expected in (2, 1, 0):
        answer = await api.anonymous.get("/users", headers=key)
        assert answer.status_code == 200
        assert limit_of(answer.headers)[:2] == (3, expected)
    for _ in range(3):
        refused = await api.anonymous.get("/users", headers=key)
        assert_problem(refused, 429, "rate_limited")
        assert limit_of(refused.headers)[:2] == (3, 0)
        assert 1 <= int(refused.headers["retry-after"]) <= 60


async def test_rejected_requests_count_too(api: Clients, database: Database) -> None:
    key = bearer(await new_key(database, Role.ANALYST, rate_limit=2))
    await api.anonymous.post("/users", headers=key)
    await api.anonymous.get("/users?nonsense=1", headers=key)
    assert_problem(await api.anonymous.get("/users", headers=key), 429, "rate_limited")


async def test_each_key_has_its_own_count(api: Clients, database: Database) -> None:
    first, second = [bearer(await new_key(database, Role.ADMIN, rate_limit=1)) for _ in range(2)]
    assert (await api.anonymous.get("/users", headers=first)).status_code == 200
    assert (await api.anonymous.get("/users", headers=second)).status_code == 200
    assert (await api.anonymous.get("/users", headers=first)).status_code == 429


async def test_a_window_starts_with_its_first_request_and_lasts_a_minute(
    api: Clients, database: Database, owner: Connection
) -> None:
    key = bearer(await new_key(database, Role.ADMIN, rate_limit=2))
    for _ in range(3):
        answer = await api.anonymous.get("/users", headers=key)
    assert answer.status_code == 429
    await owner.execute("UPDATE rate_windows SET started_at = now() - interval '58.5 seconds'")
    refused = await api.anonymous.get("/users", headers=key)
    assert refused.status_code == 429
    assert limit_of(refused.headers)[2] in {1, 2}
    await owner.execute("UPDATE rate_windows SET started_at = now() - interval '60 seconds'")
    answer = await api.anonymous.get("/users", headers=key)
    assert answer.status_code == 200
    quota, remaining, reset = limit_of(answer.headers)
    assert (quota, remaining) == (2, 1)
    assert reset in {59, 60}


async def test_exactly_the_quota_of_concurrent_requests_is_accepted(api: Clients, database: Database) -> None:
    key = bearer(await new_key(database, Role.ADMIN, rate_limit=20))
    answers = await asyncio.gather(*(api.anonymous.get("/users", headers=key) for _ in range(35)))
    assert sorted(answer.status_code for answer in answers) == [200] * 20 + [429] * 15


@pytest.mark.parametrize("path", ["/nowhere", "/health/live", "/users", "/docs", "/openapi.json"])
async def test_answers_without_a_key_announce_the_default(api: Clients, path: str) -> None:
    answer = await api.anonymous.get(path)
    assert limit_of(answer.headers) == (100, 100, 60)
