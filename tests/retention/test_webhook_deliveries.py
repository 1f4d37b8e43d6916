"""Callbacks past their period: what has been told goes, and nothing that is still to be told."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from activities.expired_events import by_place
from models.rules.retention import WEBHOOK_DELIVERIES
from models.temporal.callbacks import CallbackDue
from models.vocabulary import InstanceStatus
from runtime.database import Database
from store.connection import Connection
from store.instances import callbacks
from store.retention import purge, runs
from tests.retention.filling import RUN, audited, count, sweeping
from tests.support.http import Clients

ENDED_LONG_AGO = {"told": "delivered", "refused": "gone", "given-up": "failed", "to-be-tried": "waiting"}


@pytest.fixture
async def run(database: Database) -> str:
    """A run that the sweeps of a test belong to."""
    async with database.transaction() as connection:
        await runs.begin(connection, RUN, "a-test", [WEBHOOK_DELIVERIES])
    return RUN


async def called_back(
    owner: Connection, instance_id: str, status: str, *, tried: int | None, ended: int | None
) -> None:
    """An instance that ended so many days ago, None while it runs, and its callback, last tried so long ago."""
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


async def test_what_is_told_goes_and_what_is_to_be_told_stays(
    database: Database, owner: Connection, run: str
) -> None:
    for instance_id, status in ENDED_LONG_AGO.items():
        await called_back(owner, instance_id, status, tried=91, ended=91)
    await called_back(owner, "told-lately", "delivered", tried=89, ended=200)
    await called_back(owner, "never-tried", "waiting", tried=None, ended=91)
    await called_back(owner, "runs", "waiting", tried=None, ended=None)
    await called_back(owner, "runs-again", "failed", tried=91, ended=None)
    await called_back(owner, "alone", "delivered", tried=91, ended=91)
    await owner.execute("DELETE FROM instances WHERE instance_id = 'alone'")
    await by_place(await sweeping(database, WEBHOOK_DELIVERIES), table=purge.CALLBACKS)
    assert await left(owner) == {"to-be-tried", "told-lately", "never-tried", "runs", "runs-again"}
    assert await audited(owner, WEBHOOK_DELIVERIES) == {("callbacks", "deleted"): 4}
    assert await count(owner, "instances") == 8


async def test_the_end_of_a_replayed_instance_that_is_still_to_be_told_keeps_its_callback(
    database: Database, owner: Connection, run: str
) -> None:
    """Its instance ended long ago, was told, and has ended again: the letter is on its way."""
    await called_back(owner, "told", "delivered", tried=91, ended=0)
    await called_back(owner, "wants-no-more", "gone", tried=91, ended=0)
    async with database.transaction() as connection:
        for instance_id in ("told", "wants-no-more", "nobody-asked"):
            await callbacks.due(connection, instance_id)
    assert [row[0] for row in await owner.fetch("SELECT instance_id FROM temporal_outbox")] == ["told"]
    await by_place(await sweeping(database, WEBHOOK_DELIVERIES), table=purge.CALLBACKS)
    assert await left(owner) == {"told"}
    async with database.transaction() as connection:
        await callbacks.tried(connection, CallbackDue(instance_id="told", ending=0), "delivered", 204)
    tried = await owner.fetchval("SELECT last_attempt_at FROM callbacks WHERE status = 'delivered'")
    assert tried.date() == datetime.now(UTC).date()


async def test_a_dry_run_counts_callbacks(api: Clients, owner: Connection) -> None:
    for instance_id, status in ENDED_LONG_AGO.items():
        await called_back(owner, instance_id, status, tried=91, ended=91)
    answer = await api.admin.post("/retention/run", json={"dry_run": True, "data_types": ["webhook_deliveries"]})
    (found,) = answer.json()["data"]
    assert found["parts"] == [{"part": "callbacks", "action": "delete", "rows": 3}]
    assert (found["days"], await count(owner, "callbacks")) == (90, 4)
