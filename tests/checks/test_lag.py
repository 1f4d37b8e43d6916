"""A consumer that is behind is told, with the session that holds the log's horizon back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import httpx
import pytest

from checks import lag
from checks.lag import LogState, gauges, log_behind, log_changes, log_state
from models.rules.sharding import SHARDS, shard_of
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.embedded.ports import free_port
from runtime.embedded.postgres import EmbeddedPostgres
from runtime.metrics import Gauge, metrics_served, rendered
from store.connection import Connection
from tests.support.log import Log, click
from tests.support.logs import logged

TRANSACTION = "BEGIN; SELECT pg_current_xact_id()"


@pytest.fixture
async def idle(postgres: EmbeddedPostgres) -> AsyncIterator[Connection]:
    """A session of a superuser, in another database, with an open write transaction."""
    settings = {"application_name": "nightly report of ada@example.com"}
    connection = await asyncpg.connect(postgres.superuser_url, server_settings=settings)
    await connection.execute(TRANSACTION)
    yield connection
    await connection.close()


@pytest.fixture
def log(database: Database, cipher: Cipher) -> Log:
    return Log(database, cipher)


async def _state(database: Database) -> LogState:
    async with database.connection() as connection:
        return await log_state(connection)


async def _age_events(owner: Connection, by: timedelta) -> None:
    await owner.execute("UPDATE events SET received_at = now() - $1::interval", by)


async def test_an_idle_write_transaction_is_named_until_it_ends(
    database: Database, owner: Connection, log: Log, idle: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lag, "HELD_SECONDS", 0)
    user_id = await log.person()
    shard = shard_of(user_id)
    await log.write(*(click(user_id, f"f-{number}", historical=False) for number in range(3)))
    await _age_events(owner, timedelta(seconds=40))
    await log.project()  # reads nothing past the horizon

    state = await _state(database)
    assert [(each.consumer, each.shard, each.events) for each in state.lags] == [
        ("projector", number, 3 if number == shard else 0) for number in range(SHARDS)
    ]
    assert 40 <= max(each.seconds for each in state.lags) < 60
    assert state.holder is not None
    assert (state.holder.application, state.holder.state) == (
        "nightly report of ada?example.com",
        "idle in transaction",
    )
    assert state.holder.since == await owner.fetchval(
        "SELECT xact_start FROM pg_stat_activity WHERE application_name LIKE 'nightly%'"
    )
    unmet = log_behind(state)
    assert unmet is not None
    assert unmet.code == "log_behind"
    assert f"events behind in shard {shard}. The session 'nightly report of ada?example.com', idle in" in unmet[1]
    text = rendered(gauges(state))
    assert f'perennial_log_lag_events{{consumer="projector",shard="{shard}"}} 3\n' in text
    assert 'held_seconds{application="nightly report of ada?example.com",state="idle in transaction"}' in text

    with logged("perennial.lag") as lines:
        told = log_changes(state, set())
        assert log_changes(state, told) == told
        await idle.execute("ROLLBACK")
        await log.project()
        after = await _state(database)
        assert log_changes(after, told) == set()
    assert [line["message"] for line in lines()] == [
        "a consumer of the log is behind",
        "a consumer of the log has caught up",
    ]
    first = lines()[0]
    assert (first["shard"], first["events"], first["held_state"]) == (shard, 3, "idle in transaction")
    assert after.holder is None
    assert {(each.events, each.seconds) for each in after.lags} == {(0, 0.0)}
    assert log_behind(after) is None


async def test_thirty_seconds_are_not_behind_yet_and_a_reader_holds_nothing(
    database: Database, owner: Connection, log: Log, idle: Connection
) -> None:
    await idle.execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")
    await log.write(click(await log.person(), "export"))
    await _age_events(owner, timedelta(seconds=lag.BEHIND_SECONDS - 5))
    state = await _state(database)
    assert state.holder is None
    assert log_behind(state) is None
    await _age_events(owner, timedelta(seconds=lag.BEHIND_SECONDS + 1))
    assert log_behind(await _state(database)) is not None


async def test_the_runtime_role_reads_three_columns_of_that_session_and_no_more(
    database: Database, idle: Connection
) -> None:
    async with database.connection() as connection:
        [held] = await connection.fetch("SELECT * FROM log_horizon_holder()")
        assert set(held.keys()) == {"application", "state", "since"}
        assert held["state"] == "idle in transaction"
        row = await connection.fetchrow("SELECT state, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL")
    assert row is not None
    assert tuple(row) == (None, "<insufficient privilege>")


async def test_metrics_are_served_at_their_own_address_alone(database: Database) -> None:
    async def read() -> list[Gauge]:
        return gauges(await _state(database))

    address = f"127.0.0.1:{free_port()}"
    async with (
        metrics_served(address, read),
        httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client,
    ):
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert 'perennial_log_lag_seconds{consumer="projector",shard="0"} 0\n' in answer.text
        assert (await client.head("/metrics")).text == ""
        assert (await client.get("/users")).status_code == 404
        assert (await client.post("/metrics")).status_code == 405
    with pytest.raises(httpx.ConnectError):
        await asyncio.to_thread(httpx.get, f"http://{address}/metrics", trust_env=False)
