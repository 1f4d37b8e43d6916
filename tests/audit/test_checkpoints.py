"""Checkpoints cover rows that commit late, workers at once make one chain, and only whole hours expire."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from activities import audit as checkpointing
from models.audit import AuditEntry
from privacy.audit_chain import ChainBrokenError
from runtime.database import Database, DatabaseUnreachableError
from runtime.settings import Settings
from store.audit import checkpoints, entries
from store.retention import periods
from tests.audit.log import Log, hours_ago
from tests.support.jobs import delete_schedule, scheduled
from worker import keep_schedule

LATE = """INSERT INTO audit_log (occurred_at, actor, role, action, outcome)
          VALUES ($1, 'late', 'admin', 'a', 'done')"""


async def test_a_row_whose_transaction_commits_after_the_hour_is_in_its_checkpoint(log: Log) -> None:
    await log.fill(4)
    late = log.superuser.transaction()
    await late.start()
    await log.superuser.execute(LATE, hours_ago(3, 59))
    work = asyncio.create_task(log.checkpoint())
    await asyncio.sleep(0.5)  # several polls of the horizon
    assert not work.done()
    async with log.database.connection() as connection:
        assert await checkpoints.last(connection) is None
    await late.commit()
    assert (await work).hours >= 3
    assert (await log.verify()).rows == 4


async def test_an_hour_that_stays_open_fails_the_attempt_and_is_checkpointed_by_a_later_one(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointing, "_PATIENCE_SECONDS", 0.3)
    await log.fill(3)
    async with log.superuser.transaction():
        await log.superuser.execute(LATE, hours_ago(3, 59))
        with pytest.raises(ApplicationError, match="still open"):
            await log.checkpoint()
    await log.checkpoint()
    assert (await log.verify()).rows == 4


async def test_a_row_of_an_hour_before_the_first_one_that_commits_late_is_in_the_chain(log: Log) -> None:
    await log.fill(2)
    late = log.superuser.transaction()
    await late.start()
    await log.superuser.execute(LATE, hours_ago(5, 10))
    work = asyncio.create_task(log.checkpoint())
    await asyncio.sleep(0.3)
    await late.commit()
    await work
    await log.checkpoint()
    assert (await log.verify()).rows == 4


async def test_a_row_has_its_transactions_id_before_it_reads_the_clock(log: Log) -> None:
    """The default of occurred_at is replaced by one that shows whether the id was there."""
    entry = AuditEntry("key-1", "admin", "users.read")
    column = "ALTER TABLE audit_log ALTER occurred_at SET DEFAULT"
    await log.superuser.execute(
        f"{column} CASE WHEN pg_current_xact_id_if_assigned() IS NULL THEN 'epoch' ELSE clock_timestamp() END"
    )
    try:
        for written in ([entry], [entry, entry]):
            async with log.database.transaction() as connection:
                assert await connection.fetchval("SELECT pg_current_xact_id_if_assigned()") is None
                await entries.append(connection, written)
    finally:
        await log.superuser.execute(f"{column} clock_timestamp()")
    rows = await log.rows()
    assert len(rows) == 3
    assert all(row["occurred_at"] > hours_ago(1) for row in rows)


async def test_a_row_has_its_own_time_and_not_that_of_its_transaction(log: Log) -> None:
    async with log.database.transaction() as connection:
        began = await connection.fetchval("SELECT now()")
        await connection.execute("SELECT pg_sleep(0.05)")
        await entries.append(connection, [AuditEntry("key-1", "admin", "users.read")])
    [row] = await log.rows()
    assert (row["occurred_at"] - began).total_seconds() >= 0.05


async def test_workers_at_once_make_one_chain(log: Log, database_url: str) -> None:
    await log.fill(30, 20, 5)
    other = Database(database_url, size=2, application="other")
    await other.open()
    try:
        for _ in range(3):  # one of two may fail at an hour; Temporal would retry
            await asyncio.gather(
                log.checkpoint(), Log(other, log.superuser, log.key).checkpoint(), return_exceptions=True
            )
    finally:
        await other.close()
    found = await log.verify()
    assert (found.hours, found.rows) == (await log.superuser.fetchval("SELECT count(*) FROM audit_checkpoints"), 9)
    assert found.hours >= 29


async def _checkpoint_and_lose_the_connection(log: Log) -> None:
    async with log.database.transaction() as connection:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        due = checkpoints.DueHour(hours_ago(4), 0)
        assert await checkpoints.is_closed(connection, due)
        await checkpoints.checkpoint(connection, log.key, due)
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        await log.superuser.execute("SELECT pg_terminate_backend($1)", pid)


async def test_a_worker_whose_connection_dies_leaves_no_checkpoint(log: Log) -> None:
    await log.fill(4)
    with pytest.raises(DatabaseUnreachableError):
        await _checkpoint_and_lose_the_connection(log)
    async with log.database.connection() as connection:
        assert await checkpoints.last(connection) is None
    await log.checkpoint()
    assert (await log.verify()).rows == 3


async def expire(log: Log) -> list[int]:
    """Delete the hours that may expire; return the number of rows of each."""
    gone: list[int] = []
    while True:
        async with log.database.transaction() as connection:
            older_than = (await periods.find(connection, "audit")).older_than(datetime.now(UTC))
            assert older_than is not None
            rows = await checkpoints.expire_hour(connection, log.key, older_than)
        if rows is None:
            return gone
        gone.append(rows)


async def set_days(log: Log, days: int) -> None:
    async with log.database.transaction() as connection:
        await periods.change(connection, "audit", days, actor="key-1", seal=log.key.seal(days))


DAYS_31 = 31 * 24


async def test_checkpointed_hours_expire_as_a_whole_and_their_checkpoints_stay(log: Log) -> None:
    await log.fill(DAYS_31 + 1, DAYS_31, 2)
    assert await expire(log) == []  # nothing is checkpointed
    await log.checkpoint()
    assert await expire(log) == []  # kept for longer, by the last checkpoint
    await set_days(log, 30)
    await log.superuser.execute(
        "DELETE FROM audit_checkpoints WHERE hour = (SELECT max(hour) FROM audit_checkpoints)"
    )
    await log.checkpoint()  # the newest hour again, now with the new retention
    assert await expire(log) == [3, 3]
    found = await log.verify()
    assert (found.rows, found.expired_hours) == (3, 2)
    assert found.hours >= DAYS_31 - 1


async def test_a_period_that_was_extended_again_holds_at_once(log: Log) -> None:
    await set_days(log, 30)
    await log.fill(DAYS_31 + 1, DAYS_31, 2)
    await log.checkpoint()
    await set_days(log, 60)
    assert await expire(log) == []
    await set_days(log, 30)
    assert await expire(log) == [3, 3]


async def test_a_row_in_an_expired_hour_is_found(log: Log) -> None:
    await set_days(log, 30)
    await log.fill(DAYS_31, 2)
    await log.checkpoint()
    assert await expire(log) == [3]
    await log.verify()
    await log.add(hours_ago(DAYS_31, 5))
    with pytest.raises(ChainBrokenError, match="3 rows were checkpointed, 1 are there"):
        await log.verify()


async def test_nothing_younger_than_thirty_days_expires_whatever_the_tables_hold(log: Log) -> None:
    await set_days(log, 1)
    await log.fill(29 * 24, 2)
    await log.checkpoint()
    assert await expire(log) == []
    await log.superuser.execute("UPDATE audit_checkpoints SET expires_before = 'infinity'")
    assert await expire(log) == []
    assert await expire_directly(log, log.key.permit(hours_ago(29 * 24))) is None


async def expire_directly(log: Log, permit: bytes | None) -> datetime | None:
    """Call Postgres' function as the runtime role; return the deleted hour."""
    async with log.database.connection() as connection:
        hour: datetime | None = await connection.fetchval("SELECT expired_hour FROM expire_audit_hour($1)", permit)
        return hour


FORGE = """INSERT INTO audit_checkpoints
                  (hour, rows, digest, expires_before, created_at, previous, head, key_check, permit_digest)
           SELECT greatest($1, hour + interval '1 hour'), 0, sha256(''), '2099-01-01', now(), head,
                  sha256('forged'), key_check, sha256($2)
             FROM audit_checkpoints ORDER BY hour DESC LIMIT 1"""
FUTURE = datetime(2099, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("hour", [FUTURE, hours_ago(1)])
async def test_a_forged_checkpoint_deletes_nothing_and_is_found(log: Log, hour: datetime) -> None:
    """The runtime role may insert checkpoints and change periods. It lacks the chain's key."""
    await log.fill(DAYS_31, 2)
    await log.checkpoint()
    await log.verify()
    async with log.database.connection() as connection:
        await connection.execute(FORGE, hour, b"guess")
        await periods.change(connection, "audit", 30, actor="key-1")
    for permit in (None, b"", b"guess", bytes(32), log.key.permit(hours_ago(DAYS_31 - 1))):
        assert await expire_directly(log, permit) is None
    assert await expire(log) == []
    assert len(await log.rows()) == 6
    with pytest.raises(ChainBrokenError):
        await log.verify()


async def test_a_shorter_period_needs_the_seal_of_the_chains_key(log: Log) -> None:
    """The runtime role may write the table of periods. The newest checkpoint is made again under each seal."""
    await log.fill(DAYS_31, 2)
    for seal in (None, b"", b"guess", log.key.seal(31)):
        async with log.database.transaction() as connection:
            await periods.change(connection, "audit", 30, actor="key-1", seal=seal)
        await log.checkpoint()
        assert await expire(log) == []
        await log.superuser.execute("DELETE FROM audit_checkpoints WHERE hour >= $1", hours_ago(2))
    await set_days(log, 30)
    await log.checkpoint()
    assert await expire(log) == [3]


async def test_a_checkpoint_of_the_future_does_not_stop_the_chain(log: Log) -> None:
    await log.fill(4)
    await log.checkpoint()
    await log.superuser.execute("DELETE FROM audit_checkpoints WHERE hour >= $1", hours_ago(2))
    async with log.database.connection() as connection:
        await connection.execute(FORGE, FUTURE, b"guess")
    assert (await log.checkpoint()).hours >= 1
    with pytest.raises(ChainBrokenError, match="is missing"):
        await log.verify()
    await log.superuser.execute("DELETE FROM audit_checkpoints WHERE hour > now()")
    assert (await log.verify()).rows == 3


async def test_an_hour_expires_with_its_own_permit_alone(log: Log) -> None:
    await set_days(log, 30)
    await log.fill(DAYS_31 + 1, DAYS_31, 2)
    await log.checkpoint()
    assert await expire_directly(log, log.key.permit(hours_ago(DAYS_31))) is None
    assert await expire_directly(log, log.key.permit(hours_ago(DAYS_31 + 1))) == hours_ago(DAYS_31 + 1)
    assert (await log.verify()).expired_hours == 1


async def test_an_hour_without_a_permit_stays_for_two_years(log: Log) -> None:
    """Its checkpoint is older than permits."""
    for hours in (731 * 24, 729 * 24):
        await log.fill(hours)
        await log.superuser.execute(
            "INSERT INTO audit_checkpoints VALUES ($1, 3, '', now(), now(), '', '', '', NULL)", hours_ago(hours)
        )
    assert await expire_directly(log, None) == hours_ago(731 * 24)
    assert await expire_directly(log, None) is None


async def test_the_schedule_checkpoints_and_reports_a_deleted_checkpoint(
    skipping: WorkflowEnvironment, system: Client, system_jobs: None, log: Log, worker_settings: Settings
) -> None:
    await log.fill(3)
    await delete_schedule(system, "system/audit-checkpoint")
    try:
        with skipping.with_time_skipping_disabled():
            await _scheduled(system, worker_settings, 1)
            await _scheduled(system, worker_settings, 2)
            assert (await log.verify()).rows == len(await log.rows()) == 3
            await log.superuser.execute("DELETE FROM audit_checkpoints WHERE hour >= $1", hours_ago(2))
            await _scheduled(system, worker_settings, 3)
    finally:
        await delete_schedule(system, "system/audit-checkpoint")
    assert [row["action"] for row in await log.rows()][3:] == ["audit.chain_lost"]
    await log.verify()


async def _scheduled(system: Client, settings: Settings, runs: int) -> None:
    """Create or update the schedule, and wait until that many runs have ended."""
    await keep_schedule(system, settings.task_queue, scheduled("system/audit-checkpoint"))
    handle = system.get_schedule_handle("system/audit-checkpoint")
    async with asyncio.timeout(20):
        while (info := (await handle.describe()).info).running_actions or info.num_actions < runs:
            await asyncio.sleep(0.05)
