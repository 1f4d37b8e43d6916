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


async def test_the_list_of_features_has_those_beyond_the_profile(
    api: Clients, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    await add_user(api.admin)
    await add_user(api.admin, "u-2")
    await _use(owner, 2_001, 2_000)
    found, cursor = [], ""
    for count in (1000, 1000, 1):
        page = (await api.analyst.get(f"/users/u-1/features?limit=1000{cursor}")).json()
        assert len(page["data"]) == count
        found += page["data"]
        cursor = f"&cursor={page['pagination']['next_cursor']}"
    assert page["pagination"]["next_cursor"] is None
    assert found == [{"feature": f"f-{n:05}", "uses": 1 + n // 2_000} for n in range(2_001)]
    assert (await api.analyst.get("/users/u-2/features")).json()["data"] == []


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
    await _use(owner, 2, 2)
    mine, other = (await api.admin.get("/users")).json()["data"]
    assert mine["behavior"]["feature_usage_map"] == {"f-00000": 1, "f-00001": 1}
    assert other["behavior"]["feature_usage_map"] == {}
    assert (await api.admin.get("/users/u-2")).json()["behavior"]["feature_usage_map"] == {}
    changed = await api.admin.patch("/users/u-2", json={"name": "Bob"})
    assert changed.json()["behavior"]["feature_usage_map"] == {}


async def test_a_profile_shows_the_currencies_with_the_most_purchases(
    api: Clients, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    await add_user(api.admin)
    letters = [chr(each) for each in range(ord("A"), ord("Z") + 1)]
    codes = [first + second + third for first in letters for second in letters for third in letters]
    await owner.execute(
        "INSERT INTO purchase_totals (user_id, currency, purchases, revenue, last_purchase_at)"
        " SELECT 'u-1', code, CASE code WHEN 'ZZY' THEN 3 ELSE 1 END, 5,"
        " CASE code WHEN 'AAB' THEN now() ELSE '2026-01-01Z' END FROM unnest($1::text[]) code",
        codes,
    )
    answer = await api.admin.get("/users/u-1")
    transactions = answer.json()["transactions"]
    assert transactions["currency"] == "ZZY"
    assert list(transactions["revenue_by_currency"]) == ["AAB", *codes[-199:]]
    assert transactions["revenue_truncated"]
    assert transactions["total_purchases"] == len(codes) + 2
    assert not transactions["last_purchase_date"].startswith("2026-01-01")
    assert len((await api.admin.get("/users")).content) < 50_000
    assert (await api.admin.get("/users/u-1/export")).text.count('"currency"') >= len(codes)


async def test_a_profile_of_200_currencies_shows_all(
    api: Clients, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    await add_user(api.admin)
    await add_user(api.admin, "u-2")
    await owner.execute(
        "INSERT INTO purchase_totals (user_id, currency, purchases, revenue)"
        " SELECT 'u-1', chr(65 + n / 26) || chr(65 + n % 26) || 'X', 1, 5 FROM generate_series(0, 199) n"
    )
    mine, other = [each["transactions"] for each in (await api.admin.get("/users")).json()["data"]]
    assert len(mine["revenue_by_currency"]) == 200
    assert "revenue_truncated" not in mine
    assert other["total_purchases"] == 0
    assert other["revenue_by_currency"] == {}
