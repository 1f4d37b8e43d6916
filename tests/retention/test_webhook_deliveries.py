"""Expired callbacks: delivered and abandoned ones are deleted, and none that is still to be tried."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from models.rules.retention import WEBHOOK_DELIVERIES
from models.temporal.system import CallbackDue
from models.vocabulary import InstanceStatus
from runtime.database import Database
from store.connection import Connection
from store.instances import callbacks
from store.retention import expired, runs
from tests.retention.filling import RUN, audited, begin_purge, count
from tests.support.http import Clients

ENDED_LONG_AGO = {"delivered": "delivered", "gone": "gone", "failed": "failed", "waiting": "waiting"}


@pytest.fixture
async def run(database: Database) -> str:
    """The run of a test's purges."""
    async with database.transaction() as connection:
        await runs.begin(connection, RUN, "a-test", [WEBHOOK_DELIVERIES])
    return RUN


async def add_callback(
    owner: Connection, instance_id: str, status: str, *, tried: int | None, ended: int | None
) -> None:
    """Insert an instance and its callback; ``ended`` and ``tried`` are days ago, or None."""
    await owner.execute(
        """INSERT INTO instances (instance_id, workflow_id, user_id, status, max_attempts, started_by, start_time,
                                  end_time)
           VALUES ($1, 'onboarding', 'u-1', $2, 3, 'test', now() - interval '400 days',
                   now() - make_interval(days => $3))""",
        instance_id,
        InstanceStatus.RUNNING if ended is None else InstanceStatus.COMPLETED,
        ended,
    )
    await owner.execute(
        """INSERT INTO callbacks (instance_id, user_id, status, last_attempt_at)
           VALUES ($1, 'u-1', $2, now() - make_interval(days => $3))""",
        instance_id,
        status,
        tried,
    )


async def left(owner: Connection) -> set[str]:
    return {row["instance_id"] for row in await owner.fetch("SELECT instance_id FROM callbacks")}


async def test_settled_callbacks_are_deleted_and_those_still_to_be_tried_stay(
    database: Database, owner: Connection, run: str
) -> None:
    for instance_id, status in ENDED_LONG_AGO.items():
        await add_callback(owner, instance_id, status, tried=91, ended=91)
    await add_callback(owner, "delivered-lately", "delivered", tried=89, ended=200)
    await add_callback(owner, "never-tried", "waiting", tried=None, ended=91)
    await add_callback(owner, "runs", "waiting", tried=None, ended=None)
    await add_callback(owner, "runs-again", "failed", tried=91, ended=None)
    await add_callback(owner, "alone", "delivered", tried=91, ended=91)
    await owner.execute("DELETE FROM instances WHERE instance_id = 'alone'")
    await (await begin_purge(database, WEBHOOK_DELIVERIES)).scan(expired.CALLBACKS)
    assert await left(owner) == {"waiting", "delivered-lately", "never-tried", "runs", "runs-again"}
    assert await audited(owner, WEBHOOK_DELIVERIES) == {("callbacks", "deleted"): 4}
    assert await count(owner, "instances") == 8


async def test_the_new_end_of_a_replayed_instance_keeps_its_callback(
    database: Database, owner: Connection, run: str
) -> None:
    """The instance ended and was called back long ago, and has ended again: the outbox holds the next callback."""
    await add_callback(owner, "delivered", "delivered", tried=91, ended=0)
    await add_callback(owner, "gone", "gone", tried=91, ended=0)
    async with database.transaction() as connection:
        for instance_id in ("delivered", "gone", "without-callback"):
            await callbacks.mark_due(connection, instance_id)
    assert [row[0] for row in await owner.fetch("SELECT instance_id FROM temporal_outbox")] == ["delivered"]
    await (await begin_purge(database, WEBHOOK_DELIVERIES)).scan(expired.CALLBACKS)
    assert await left(owner) == {"delivered"}
    async with database.transaction() as connection:
        due = CallbackDue(instance_id="delivered", ending=0)
        await callbacks.record_attempt(connection, due, "delivered", 204)
    tried = await owner.fetchval("SELECT last_attempt_at FROM callbacks WHERE status = 'delivered'")
    assert tried.date() == datetime.now(UTC).date()


async def test_a_dry_run_counts_callbacks(api: Clients, owner: Connection) -> None:
    for instance_id, status in ENDED_LONG_AGO.items():
        await add_callback(owner, instance_id, status, tried=91, ended=91)
    answer = await api.admin.post("/retention/run", json={"dry_run": True, "data_types": ["webhook_deliveries"]})
    (found,) = answer.json()["data"]
    assert found["parts"] == [{"part": "callbacks", "action": "delete", "rows": 3}]
    assert (found["days"], await count(owner, "callbacks")) == (90, 4)
