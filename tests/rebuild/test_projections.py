"""A rebuild finds what the projector wrote, and restores it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from activities.retention import EventPurge
from cli.rebuilding import ProjectionRebuild, Summary
from clients.importer.progress import reporter
from models.rules.engagement import forward_weight
from models.rules.sharding import SHARDS
from models.rules.stages import DEFAULT_PERIODS
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import ConfigurationError
from store.connection import Connection
from store.events import poison, rebuilding
from store.events.events import BODY
from store.users import data_keys
from tests.retention.filling import begin_purge
from tests.support.locks import until_blocked
from tests.support.log import Happening, Log, click, purchase

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
BEGINNING, MARCH = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
FIRST = datetime(2026, 2, 20, 12, tzinfo=UTC)
REFUND = "transaction.refund"
TABLES = {
    "sessions": "session_id, first_at, last_at",
    "user_activity": "session_count, last_session_date, total_session_seconds, decayed_sessions, decayed_actions,"
    " last_historical_at",
    "transactions": "event_id, kind, amount, currency, occurred_at",
    "purchase_totals": "currency, purchases, revenue, last_purchase_at, first_purchase_at",
    "feature_usage": "feature, uses",
}
DAMAGES = (
    "DELETE FROM sessions WHERE first_at >= '2026-03-01' AND session_id = 's-1'",
    "UPDATE sessions SET last_at = last_at + interval '5 minutes' WHERE first_at >= '2026-03-01'",
    "UPDATE sessions SET first_at = first_at - interval '1 second' WHERE first_at >= '2026-03-02'",
    "INSERT INTO sessions (user_id, session_id, first_at, last_at)"
    " SELECT user_id, 'none', '2026-03-07', '2026-03-08' FROM user_activity",
    "UPDATE user_activity SET session_count = 99, last_session_date = '2026-05-05', total_session_seconds = 1.5,"
    " decayed_sessions = 7",
    "DELETE FROM transactions WHERE occurred_at >= '2026-03-01'",
    "UPDATE transactions SET amount = amount + 1, kind = 'refund', order_id = ''"
    " WHERE occurred_at >= '2026-03-01'",
    "UPDATE purchase_totals SET purchases = 0, revenue = -1, last_purchase_at = NULL, first_purchase_at = NULL",
    "DELETE FROM purchase_totals",
)
"""Each changes rows from March on, or totals that are sums of rows."""
DAMAGES_WITHOUT_ROWS = (
    "DELETE FROM user_activity",
    "UPDATE user_activity SET decayed_actions = 0, last_historical_at = NULL",
    "UPDATE feature_usage SET uses = uses + 1",
    "DELETE FROM feature_usage",
    "INSERT INTO feature_usage SELECT user_id, 'none', 3 FROM user_activity",
)


@pytest.fixture
def log(database: Database, cipher: Cipher) -> Log:
    return Log(database, cipher)


async def rebuild(log: Log, since: datetime = BEGINNING, *, dry_run: bool = False) -> Summary:
    run = ProjectionRebuild(log.database, log.cipher, DEFAULT_PERIODS, since, dry_run)
    with reporter(Console(file=StringIO()), 1) as report:
        await run.run(report)
    return run.summary


async def stored(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    return {
        table: [
            tuple(row)
            for row in await connection.fetch(
                f"SELECT user_id, {columns} FROM {table} ORDER BY user_id, {columns}"
            )
        ]
        for table, columns in TABLES.items()
    }


def happening(user: str, draw: random.Random) -> Happening:
    """An event of four weeks across the beginning of March, most of them within a few hours of others."""
    day = draw.choice([0, 3, 8, 9, 20])
    at = FIRST + day * DAY + timedelta(seconds=draw.randint(0, 12 * 3600))
    if day == 8:
        at = MARCH + timedelta(seconds=draw.randint(-3600, 3600))  # visits across midnight
    more: dict[str, Any] = {
        "timestamp": at,
        "session_id": draw.choice(["s-1", "s-2", "workflow:i-1"]),
        "historical": draw.random() < 0.2,
    }
    kind = draw.choice(["view", "view", "login", "click", "buy", "refund", "bad"])
    if kind == "click":
        return click(user, draw.choice(["export", "share"]), **more)
    if kind in ("buy", "refund"):
        amount = draw.choice(["19.99", "5", "0.10", "123456789012345678901234.01"])
        more |= {"event_type": REFUND} if kind == "refund" else {}
        return purchase(user, amount, draw.choice(["USD", "EUR"]), **more)
    if kind == "bad":
        return purchase(user, "-1" if draw.random() < 0.5 else None, **more)
    return Happening(user, "user.login" if kind == "login" else "engagement.page_view", **more)


async def write_history(log: Log, people: Sequence[str], draw: random.Random, count: int = 60) -> None:
    """Write events of each person in several batches, project each, and settle some of the poison events."""
    for _ in range(3):
        happenings = [happening(user, draw) for user in people for _ in range(count // 3)]
        draw.shuffle(happenings)
        await log.write(*happenings)
        await log.project()
    async with log.database.connection() as connection:
        aside = await connection.fetch("SELECT * FROM poison_events ORDER BY set_aside_at, poison_id")
    assert len(aside) > 4
    async with log.database.transaction() as connection:
        await poison.settle(connection, aside[0]["poison_id"], "discarded")
    for each in aside[1:3]:
        await mend_and_replay(log, each)


async def mend_and_replay(log: Log, aside: Any) -> None:
    """Replay a poison event whose amount is right now."""
    user = aside["user_id"]
    async with log.database.transaction() as connection:
        key = await data_keys.require(connection, log.cipher, user)
        body = {"event_properties": {"order_id": "o-1", "amount": "7.5", "currency": "EUR"}}
        await connection.execute(
            "UPDATE events SET body = $2 WHERE event_id = $1",
            aside["event_id"],
            key.encrypt_json(BODY, body, aside["event_id"]),
        )
        await poison.replay(connection, log.cipher, (), aside["poison_id"])


@pytest.mark.parametrize("seed", range(4))
async def test_a_rebuild_finds_no_difference_to_what_the_projector_and_replays_wrote(log: Log, seed: int) -> None:
    people = [await log.person() for _ in range(5)]
    await write_history(log, people, random.Random(seed))
    await log.write(*(Happening(user, timestamp=MARCH + DAY) for user in people))  # not projected
    for since in (BEGINNING, MARCH):
        found = await rebuild(log, since, dry_run=True)
        assert (found.users, found.unreadable, found.differing) == (5, 0, 0)
    assert (await rebuild(log)).rows == 0


@pytest.mark.parametrize("since", [BEGINNING, MARCH])
async def test_a_rebuild_restores_what_was_damaged(log: Log, since: datetime) -> None:
    await write_history(log, [await log.person() for _ in range(4)], random.Random(5))
    async with log.database.connection() as connection:
        before = await stored(connection)
        for damage in (*DAMAGES, *(DAMAGES_WITHOUT_ROWS if since == BEGINNING else ())):
            await connection.execute(damage)
            assert await stored(connection) != before, damage
            assert (await rebuild(log, since, dry_run=True)).differing == 4, damage
            assert (await rebuild(log, since)).differing == 4, damage
            assert await stored(connection) == before, damage
            assert (await rebuild(log, since, dry_run=True)).differing == 0, damage


async def test_users_whose_totals_change_are_due_for_a_sweep_and_keep_their_stage(log: Log) -> None:
    user = await log.person()
    await log.write(Happening(user, timestamp=MARCH))
    await log.project()
    async with log.database.connection() as connection:
        read = "SELECT lifecycle_stage, version FROM users"
        before = await connection.fetchrow(read)
        await connection.execute("UPDATE user_activity SET session_count = 5, stage_due_at = NULL")
        await rebuild(log)
        due_at = await connection.fetchval("SELECT stage_due_at FROM user_activity")
        assert due_at == MARCH + DEFAULT_PERIODS.at_risk_after
        assert await connection.fetchrow(read) == before
        assert await connection.fetchval("SELECT count(*) FROM events") == 1
        assert await connection.fetchval("SELECT count(*) FROM temporal_outbox") == 0
        audited = await connection.fetch(
            "SELECT action, actor, subjects FROM audit_log ORDER BY audit_id DESC LIMIT 3"
        )
        assert [tuple(row) for row in audited] == [
            ("projections.rebuild", "system:cli", []),
            ("projections.replace", "system:cli", [user]),
            ("projections.rebuild", "system:cli", []),
        ]


async def test_a_rebuild_waits_for_the_projector_of_the_same_users(log: Log) -> None:
    user = await log.person()
    await log.write(Happening(user, timestamp=MARCH), purchase(user, "5", timestamp=MARCH))
    await log.project()
    async with log.database.connection() as connection:
        await connection.execute("DELETE FROM sessions")
    await log.write(Happening(user, timestamp=MARCH + MINUTE), purchase(user, "7", timestamp=MARCH + MINUTE))
    async with asyncio.TaskGroup() as tasks, log.database.transaction() as holder:
        await holder.execute("SELECT FROM user_activity FOR UPDATE")
        tasks.create_task(log.project())  # waits for the row, with the cursor moved and visits written
        await until_blocked(log.database, 1)
        tasks.create_task(rebuild(log))
        await until_blocked(log.database, 2)
    async with log.database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM sessions") == 1
    assert (await log.activity(user)).session_count == 1
    assert (await log.activity(user)).totals[0].revenue == 12
    assert (await rebuild(log, dry_run=True)).differing == 0


async def test_rebuilds_beside_ingest_and_projectors_end_with_what_a_new_projection_gives(log: Log) -> None:
    people, draw = [await log.person() for _ in range(12)], random.Random(7)
    await log.write(*(each for user in people for each in usable(user, draw, 20)))
    await log.project()
    async with log.database.connection() as connection:
        await connection.execute("DELETE FROM sessions; DELETE FROM purchase_totals")
    writing = asyncio.create_task(write_on(log, people, draw))
    rebuilt = 0
    while not writing.done():
        rebuilt += (await rebuild(log)).differing
    await writing
    await log.project()
    assert rebuilt >= len(people)
    async with log.database.connection() as connection:
        found = await stored(connection)
        for table in (*TABLES, "log_cursors"):
            await connection.execute(f"DELETE FROM {table}")
        await log.project()
        assert await stored(connection) == found


def usable(user: str, draw: random.Random, count: int) -> list[Happening]:
    drawn = [happening(user, draw) for _ in range(2 * count)]
    return [each for each in drawn if not each.event_type.startswith("transaction") or each.properties["amount"]][
        :count
    ]


async def write_on(log: Log, people: Sequence[str], draw: random.Random) -> None:
    """Write and project in turns; each shard is followed by two workers, of which one finds the cursor moved."""
    for _ in range(15):
        await log.write(*(each for user in people for each in usable(user, draw, 3)))
        await asyncio.gather(*(log.follower(shard % SHARDS).step() for shard in range(2 * SHARDS)))


async def test_another_rebuild_is_refused_and_a_dry_run_is_not(log: Log) -> None:
    async with log.database.session() as other:
        assert await rebuilding.try_lock(other)
        with pytest.raises(ConfigurationError, match="Another rebuild is running"):
            await rebuild(log)
        await rebuild(log, dry_run=True)


async def test_totals_keep_what_retention_has_deleted(log: Log) -> None:
    old, user = datetime.now(UTC) - 370 * DAY, await log.person()
    long_ago: dict[str, Any] = {"timestamp": old, "session_id": "s-old"}
    await log.write(purchase(user, "5", **long_ago), click(user, "export", **long_ago), *recent(user))
    await log.project()
    await EventPurge(log.database, None).run(await begin_purge(log.database))
    async with log.database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM events") == 3
        before = await stored(connection)
        assert len(before["sessions"]) == 2
        assert before["user_activity"][0][1] == 3
        assert (await rebuild(log)).differing == 0
        await connection.execute(
            """WITH gone AS (DELETE FROM sessions WHERE first_at = '2026-03-02 00:00:00+00' RETURNING *)
               UPDATE user_activity SET session_count = session_count - 1,
                      decayed_sessions = decayed_sessions - $1""",
            forward_weight(MARCH + DAY),
        )
        await connection.execute("DELETE FROM transactions WHERE occurred_at > '2026-01-01'")
        found = await rebuild(log)
        assert (found.differing, found.complete) == (1, 0)
        assert await stored(connection) == before
    assert (await log.activity(user)).totals[0].purchases == 2


def recent(user: str) -> list[Happening]:
    return [
        Happening(user, timestamp=MARCH, historical=False),
        Happening(user, timestamp=MARCH + DAY, historical=False),
        purchase(user, "7", timestamp=MARCH + DAY, historical=False),
    ]
