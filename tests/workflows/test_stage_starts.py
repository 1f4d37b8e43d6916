"""The lifecycle stages start and end the workflows that keep customers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from models.rules.stages import DEFAULT_PERIODS
from models.vocabulary import LifecycleStage, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store.users import stage_sweeps, stages
from testing.clocks import started
from testing.events import Run, project
from testing.people import Customer
from testing.runs import Runs
from testing.temporal import DAY
from tests.support.log import Happening, Log
from workflows.catalog import triggers


@pytest.fixture
async def customer(database: Database, cipher: Cipher) -> Customer:
    """A customer who has been active for a year."""
    customer = await Customer.new(database, cipher, Purpose.MARKETING, Purpose.DATA_COLLECTION)
    async with database.connection() as connection:
        await connection.execute(
            """UPDATE users SET lifecycle_stage = 'active', created_at = now() - interval '1 year',
                                lifecycle_stage_changed_at = now() - interval '1 year'
                WHERE user_id = $1""",
            customer.user_id,
        )
    return customer


async def sweep_when_last_seen(runs: Runs, customer: Customer, ago: timedelta) -> None:
    """Sweep as if the last session were so long ago; deliver the effects of the stage's event."""
    async with runs.database.transaction() as connection:
        await connection.execute(
            """INSERT INTO user_activity (user_id, session_count, last_session_date, stage_due_at)
               VALUES ($1, 1, now() - $2::interval, now())
               ON CONFLICT (user_id) DO UPDATE
               SET last_session_date = excluded.last_session_date, stage_due_at = now()""",
            customer.user_id,
            ago,
        )
        await stage_sweeps.sweep(connection, runs.cipher, datetime.now(UTC), DEFAULT_PERIODS, 10)
    await follow(runs, customer)


async def follow(runs: Runs, customer: Customer) -> None:
    await project(runs.database, runs.cipher, triggers(), customer.user_id)
    with started(runs.environment, still=True):
        await runs.deliver()


async def instances(runs: Runs, customer: Customer) -> dict[str, Run]:
    """The customer's instances by workflow."""
    async with runs.database.connection() as connection:
        rows = await connection.fetch(
            "SELECT workflow_id, instance_id FROM instances WHERE user_id = $1", customer.user_id
        )
    return {row["workflow_id"]: runs.at(row["workflow_id"], row["instance_id"]) for row in rows}


async def test_stages_start_and_end_churn_prevention_and_win_back(runs: Runs, customer: Customer) -> None:
    await sweep_when_last_seen(runs, customer, 15 * DAY)
    assert await customer.stage() == "at_risk"
    found = await instances(runs, customer)
    assert set(found) == {"churn_prevention"}
    await sweep_when_last_seen(runs, customer, 31 * DAY)
    assert (await found["churn_prevention"].handle.result()).reason == "dormant"
    found = await instances(runs, customer)
    assert set(found) == {"churn_prevention", "win_back"}
    await runs.event(customer.user_id, "engagement.page_view")
    assert (await found["win_back"].handle.result()).reason == "returned"
    assert await customer.stage() == "reactivated"


async def test_a_customer_who_is_back_gets_no_more_of_churn_prevention(runs: Runs, customer: Customer) -> None:
    await sweep_when_last_seen(runs, customer, 15 * DAY)
    found = await instances(runs, customer)
    await runs.event(customer.user_id, "user.login")
    assert (await found["churn_prevention"].handle.result()).reason == "retained"
    assert await customer.stage() == "active"


async def test_an_import_starts_no_win_back(runs: Runs, customer: Customer, cipher: Cipher) -> None:
    log = Log(runs.database, cipher)
    await log.write(Happening(customer.user_id, timestamp=datetime.now(UTC) - 40 * DAY, historical=True))
    await follow(runs, customer)
    async with runs.database.transaction() as connection:
        await stage_sweeps.sweep(connection, cipher, datetime.now(UTC), DEFAULT_PERIODS, 10)
    await follow(runs, customer)
    assert await customer.stage() == "dormant"
    assert await instances(runs, customer) == {}


async def test_a_workflow_that_sets_a_stage_records_it_once(
    runs: Runs, customer: Customer, cipher: Cipher
) -> None:
    changed = []
    for _ in range(2):
        async with runs.database.transaction() as connection:
            changed.append(
                await stages.set_by_workflow(connection, cipher, customer.user_id, LifecycleStage.DORMANT)
            )
    assert changed == [True, False]
    await follow(runs, customer)
    assert set(await instances(runs, customer)) == {"win_back"}
    async with runs.database.connection() as connection:
        causes = await connection.fetch("SELECT dimensions FROM events WHERE user_id = $1", customer.user_id)
    assert [row["dimensions"] for row in causes] == [{"from": "active", "to": "dormant", "cause": "workflow"}]
