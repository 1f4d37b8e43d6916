"""The size of a profile in an answer is bounded, whatever its events hold."""

from __future__ import annotations

import asyncpg

from tests.support.events import add_user
from tests.support.http import Clients

USED = "INSERT INTO feature_usage (user_id, feature, uses) SELECT 'u-1', 'f-' || lpad(n::text, 5, '0'), 1 + n / $2"


async def _use(owner: asyncpg.Connection[asyncpg.Record], count: int, each: int) -> None:
    await owner.execute(USED + " FROM generate_series(0, $1 - 1) n", count, each)


async def test_a_profile_shows_the_most_used_features(
    api: Clients, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    await add_user(api.admin)
    await _use(owner, 60_000, 59_500)  # the last 500 were used twice
    answer = await api.admin.get("/users/u-1")
    behavior = answer.json()["behavior"]
    expected = [f"f-{n:05}" for n in (*range(500), *range(59_500, 60_000))]
    assert list(behavior["feature_usage_map"]) == expected
    assert behavior["feature_usage_truncated"]
    assert len((await api.admin.get("/users")).content) < 50_000
    exported = await api.admin.get("/users/u-1/export")
    assert exported.text.count('"f-') >= 60_000


async def test_a_profile_of_a_thousand_features_shows_all(
    api: Clients, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    await add_user(api.admin)
    await _use(owner, 1000, 10)
    behavior = (await api.admin.get("/users/u-1")).json()["behavior"]
    assert len(behavior["feature_usage_map"]) == 1000
    assert "feature_usage_truncated" not in behavior


async def test_a_profile_shows_no_features_of_others(
    api: Clients, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    await add_user(api.admin)
    await add_user(api.admin, "u-2")
    await _use(owner, 3, 1)
    first, second = (await api.admin.get("/users")).json()["data"]
    assert (len(first["behavior"]["feature_usage_map"]), second["behavior"]["feature_usage_map"]) == (3, {})
    read = (await api.admin.get("/users/u-2")).json()
    assert read["behavior"]["feature_usage_map"] == {}
