"""API keys and rate windows, without the API."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import pytest

from api.resources import limiter_database
from models.errors import KeyNotFoundError
from models.vocabulary import Role
from runtime.database import Database
from store import api_keys


async def authenticate(database: Database, secret: str) -> api_keys.AuthenticatedKey | None:
    async with database.connection() as connection:
        return await api_keys.authenticate(connection, secret, default_quota=100)


async def test_an_unknown_key_leaves_no_row(database: Database) -> None:
    assert await authenticate(database, api_keys.new_secret()) is None
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM rate_windows") == 0


async def test_a_revoked_key_is_unknown(database: Database) -> None:
    async with database.transaction() as connection:
        record, secret = await api_keys.create(connection, "x", [Role.ANALYST])
    key = await authenticate(database, secret)
    assert key is not None
    assert (key.key_id, key.name, key.role) == (record.key_id, "x", Role.ANALYST)
    async with database.transaction() as connection:
        revoked = await api_keys.revoke(connection, record.key_id)
        assert revoked.revoked_at is not None
    assert await authenticate(database, secret) is None
    async with database.transaction() as connection:
        with pytest.raises(KeyNotFoundError):
            await api_keys.revoke(connection, "key_none")


async def test_concurrent_requests_are_each_counted_once(database: Database) -> None:
    async with database.transaction() as connection:
        _, secret = await api_keys.create(connection, "x", [Role.ANALYST])
    keys = await asyncio.gather(*(authenticate(database, secret) for _ in range(200)))
    assert sorted(each.used for each in keys if each) == list(range(1, 201))
    assert sum(each.exceeded for each in keys if each) == 100


async def test_authentication_takes_less_than_two_milliseconds_at_the_median(
    database: Database, database_url: str
) -> None:
    limiter = limiter_database(database_url)
    await limiter.open()
    try:
        async with database.transaction() as connection:
            _, secret = await api_keys.create(connection, "x", [Role.ANALYST])
        took = await _median_seconds(lambda: authenticate(limiter, secret))
        assert took < 0.002
    finally:
        await limiter.close()


async def _median_seconds(call: Callable[[], Awaitable[object]]) -> float:
    times = []
    for _ in range(300):
        started = time.perf_counter()
        await call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


async def test_windows_are_not_logged(database: Database) -> None:
    async with database.connection() as connection:
        kind = await connection.fetchval("SELECT relpersistence FROM pg_class WHERE relname = 'rate_windows'")
    assert kind == b"u"
