"""A rebuild finds the rollups that the projector, redactions and the compactor wrote, and restores them."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyroaring import BitMap

from activities.retention import EventPurge
from cli.rebuilding import RollupRebuild, RollupSummary
from models.rules.series import DIMENSION_VALUES
from privacy.encryption import Cipher
from runtime.database import Database
from store.connection import Connection
from store.events.partitions import month_start
from store.rollups import rebuilding
from tests.rebuild.test_projections import MARCH, happening, write_history
from tests.retention.filling import begin_purge, boundary
from tests.rollups.plain import compact, plain, stored
from tests.rollups.test_corrections import opt_out
from tests.support.locks import until_blocked
from tests.support.log import Happening, Log, purchase
from tests.support.redactions import redact_all

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
PLACE = {"country": "DE", "device_type": "tv"}
DAMAGES = (
    "UPDATE rollup_hours SET events = events + 1 WHERE hour >= '2026-03-01'",
    "UPDATE rollup_hours SET amount = amount + 1 WHERE hour >= '2026-03-01'",
    "DELETE FROM rollup_hours WHERE hour >= '2026-03-01'",
    "UPDATE rollup_sessions SET seconds = seconds + 1 WHERE hour >= '2026-03-01'",
    "DELETE FROM rollup_sessions WHERE hour >= '2026-03-01'",
    "DELETE FROM rollup_people WHERE day >= '2026-03-01'",
    rf"UPDATE rollup_people SET people = '\x{BitMap([99_999_999]).serialize().hex()}' WHERE day >= '2026-03-01'",
    "INSERT INTO rollup_people SELECT '2026-03-30', '*', '', '', people FROM rollup_people LIMIT 1",
    "DELETE FROM rollup_index WHERE month = '2026-03-01'",
    "INSERT INTO rollup_index (event_type, month, part, level, events, entries)"
    " SELECT 'none.type', month, part, level, events, entries FROM rollup_index"
    " WHERE month = '2026-03-01' LIMIT 1",
)


@pytest.fixture
def log(database: Database, cipher: Cipher) -> Log:
    return Log(database, cipher)


async def rebuild(log: Log, since: datetime = BEGINNING, *, dry_run: bool = False) -> RollupSummary:
    run = RollupRebuild(log.database, log.cipher, since, DIMENSION_VALUES, dry_run)
    await run.run(lambda text: None)
    return run.summary


@pytest.fixture
async def people(log: Log) -> list[str]:
    people = [await log.person() for _ in range(4)]
    await write_history(log, people, random.Random(3))
    times = [MARCH + number * DAY / 7 for number in range(20)]
    await log.write(*(Happening(user, timestamp=each, dimensions=PLACE) for user in people for each in times))
    await log.project()
    return people


async def test_a_rebuild_finds_no_difference_to_what_projector_redaction_and_compactor_wrote(
    log: Log, people: list[str], owner: Connection
) -> None:
    assert (await rebuild(log, dry_run=True)).differing == 0  # all deltas wait
    await compact(log.database)
    await opt_out(owner, people[0])
    await redact_all(log.database, log.cipher)
    before = await owner.fetchval("SELECT count(*) FROM rollup_deltas")
    assert before
    for since in (BEGINNING, MARCH):
        found = await rebuild(log, since, dry_run=True)
        assert (found.differing, found.unreadable) == (0, 0)
    assert await owner.fetchval("SELECT count(*) FROM rollup_deltas") == before
    assert (await rebuild(log)).differing == 0
    await compact(log.database)
    assert await stored(owner) == await plain(owner)


async def test_a_rebuild_restores_what_was_damaged(log: Log, people: list[str], owner: Connection) -> None:
    await compact(log.database)
    before = await stored(owner)
    for damage in DAMAGES:
        await owner.execute(damage)
        assert await stored(owner) != before, damage
        assert (await rebuild(log, MARCH, dry_run=True)).differing, damage
        assert (await rebuild(log, MARCH)).differing, damage
        assert await stored(owner) == before, damage
        assert (await rebuild(log, MARCH, dry_run=True)).differing == 0, damage


async def test_a_rebuild_adds_events_that_were_projected_before_there_were_rollups(
    log: Log, people: list[str], owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A projector registers a new series between the snapshot and the rebuild's registration of the same."""
    for table in ("deltas", "hours", "sessions", "people", "index", "series"):
        await owner.execute(f"DELETE FROM rollup_{table}")
    fold = rebuilding._fold

    async def and_more(*arguments: Any) -> Any:
        found = await fold(*arguments)
        await log.write(Happening(people[0], timestamp=MARCH + DAY))
        await log.project()
        return found

    monkeypatch.setattr(rebuilding, "_fold", and_more)
    assert (await rebuild(log)).differing
    await compact(log.database)
    assert await stored(owner) == await plain(owner)


async def test_what_is_committed_while_a_month_is_read_comes_on_top(
    log: Log, people: list[str], owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch, and corrections by an opt-out of events that the rebuild has already read."""
    await compact(log.database)
    await owner.execute("DELETE FROM rollup_hours; DELETE FROM rollup_people; DELETE FROM rollup_index")
    await log.write(purchase(people[1], "3.5", timestamp=MARCH, dimensions=PLACE))
    await log.project()
    fold = rebuilding._fold
    compacting: list[asyncio.Task[Any]] = []

    async def and_more(connection: Connection, cipher: Cipher, month: rebuilding.Month) -> Any:
        found = await fold(connection, cipher, month)
        if month.first == MARCH.date():
            await log.write(Happening(people[2], timestamp=MARCH + DAY, dimensions=PLACE))
            await log.project()
            await opt_out(owner, people[0])
            await redact_all(log.database, log.cipher)
            compacting.append(asyncio.create_task(compact(log.database)))
            await until_blocked(log.database, 1)  # the compactor waits
        return found

    monkeypatch.setattr(rebuilding, "_fold", and_more)
    assert (await rebuild(log)).differing
    await asyncio.gather(*compacting)
    await compact(log.database)
    assert await stored(owner) == await plain(owner)
    assert (await rebuild(log, dry_run=True)).differing == 0


async def test_a_rebuild_beside_ingest_projectors_and_compactor_ends_right(
    log: Log, people: list[str], owner: Connection
) -> None:
    await compact(log.database)
    await owner.execute("DELETE FROM rollup_hours; DELETE FROM rollup_sessions; DELETE FROM rollup_index")
    draw = random.Random(4)

    async def write_on() -> None:
        for _ in range(10):
            await log.write(*(happening(user, draw) for user in people for _ in range(3)))
            await log.project()
            await compact(log.database)

    writing = asyncio.create_task(write_on())
    while not writing.done():
        await rebuild(log)
    await writing
    await rebuild(log)
    assert await stored(owner) == await plain(owner)


async def test_a_month_with_an_event_that_cannot_be_read_is_left(
    log: Log, people: list[str], owner: Connection
) -> None:
    await compact(log.database)
    await owner.execute(
        "UPDATE events SET body = '' WHERE event_id ="
        " (SELECT event_id FROM transactions WHERE occurred_at > '2026-03-01' LIMIT 1)"
    )
    await owner.execute("UPDATE rollup_hours SET events = events + 1")
    before = await stored(owner)
    found = await rebuild(log)
    assert found.unreadable == 1
    after = await stored(owner)
    march = {row for row in before["hours"] if row[2] >= MARCH}
    assert march <= after["hours"]
    assert not (before["hours"] - march) & after["hours"]


async def test_days_whose_events_retention_has_deleted_stay_and_later_days_are_restored(
    log: Log, owner: Connection
) -> None:
    user, old, kept = await log.person(), boundary() - 5 * DAY, boundary() + 3 * DAY
    await log.write(*(Happening(user, timestamp=at, dimensions=PLACE) for at in (old, kept, kept + MINUTE)))
    await log.project()
    await compact(log.database)
    await EventPurge(log.database, None).run(await begin_purge(log.database))
    before = await stored(owner)
    assert min(row[2] for row in before["hours"]) < boundary()
    assert (await rebuild(log, month_start(old))).differing == 0
    await owner.execute("UPDATE rollup_hours SET events = events + 1 WHERE hour > $1", kept - DAY / 24)
    await owner.execute("DELETE FROM rollup_people; DELETE FROM rollup_index")
    assert (await rebuild(log, month_start(old))).differing
    assert await stored(owner) == before
