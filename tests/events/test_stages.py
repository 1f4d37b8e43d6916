"""Lifecycle stages follow from the log and from time, and each change is an event."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.projector import Found
from activities.stages import StageSweeps
from models.rules.sharding import shard_of
from models.rules.stages import DEFAULT_PERIODS
from models.vocabulary import Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store.connection import Connection
from store.consents import consents
from store.events import poison
from store.users import stage_sweeps
from store.users.stage_sweeps import Swept
from testing.people import Customer
from tests.support.locks import until_blocked
from tests.support.log import Happening, Log, drain, purchase

DAY = timedelta(days=1)
NOW = datetime.now(UTC)
SIGNUP = "user.signup"


class Crowd:
    """People with stages of their own, who have been there for a year."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.database = log.database

    async def person(
        self,
        stage: str = "active",
        *purposes: Purpose,
        set_at: datetime | None = None,
        last: datetime | None = None,
    ) -> str:
        """``last`` is the time of a session, which isn't projected by events."""
        given = purposes or (Purpose.DATA_COLLECTION,)
        customer = await Customer.new(self.database, self.log.cipher, *given)
        began = NOW - 365 * DAY
        async with self.database.connection() as connection:
            await connection.execute(
                """UPDATE users SET lifecycle_stage = $2, lifecycle_stage_changed_at = $3, created_at = $4
                    WHERE user_id = $1""",
                customer.user_id,
                stage,
                set_at or began,
                began,
            )
            if last is not None:
                await connection.execute(
                    """INSERT INTO user_activity (user_id, session_count, last_session_date, stage_due_at)
                       VALUES ($1, 1, $2, $2)""",
                    customer.user_id,
                    last,
                )
        return customer.user_id

    async def do(self, *happenings: Happening) -> None:
        """Write events as one batch of the log, and project them."""
        await self.log.write(*happenings)
        await self.log.project(sorted({shard_of(each.user_id) for each in happenings}))

    async def stage(self, user_id: str) -> str:
        return str((await self.row(user_id))["lifecycle_stage"])

    async def row(self, user_id: str) -> Mapping[str, Any]:
        async with self.database.connection() as connection:
            row = await connection.fetchrow("SELECT * FROM users WHERE user_id = $1", user_id)
        assert row is not None
        return dict(row)

    async def changes(self, user_id: str) -> list[str]:
        """The recorded changes, such as `active > at_risk (inactivity)`; historical ones with a star."""
        async with self.database.connection() as connection:
            rows = await connection.fetch(
                """SELECT dimensions, historical, session_id FROM events
                    WHERE user_id = $1 AND event_type = 'lifecycle.stage_changed' ORDER BY timestamp""",
                user_id,
            )
        assert {row["session_id"] for row in rows} <= {"workflow:lifecycle"}
        return ["{from} > {to} ({cause})".format(**row["dimensions"]) + "*" * row["historical"] for row in rows]

    async def due_at(self, user_id: str) -> datetime | None:
        async with self.database.connection() as connection:
            due: datetime | None = await connection.fetchval(
                "SELECT stage_due_at FROM user_activity WHERE user_id = $1", user_id
            )
        return due

    async def sweep(self, connection: Connection | None = None, *, limit: int = 100) -> Swept:
        if connection is not None:
            return await stage_sweeps.sweep(connection, self.log.cipher, datetime.now(UTC), DEFAULT_PERIODS, limit)
        async with self.database.transaction() as own:
            return await self.sweep(own, limit=limit)


@pytest.fixture
def crowd(database: Database, cipher: Cipher) -> Crowd:
    return Crowd(Log(database, cipher))


def view(user_id: str, *, session: str = "s-1", historical: bool = False, **ago: float) -> Happening:
    return Happening(
        user_id, timestamp=datetime.now(UTC) - timedelta(**ago), session_id=session, historical=historical
    )


# By activity


async def test_a_person_moves_on_with_the_sign_up_the_third_session_and_a_purchase(crowd: Crowd) -> None:
    ada, bob = await crowd.person("prospect"), await crowd.person("prospect")
    await crowd.do(Happening(ada, SIGNUP, datetime.now(UTC), historical=False))
    assert await crowd.stage(ada) == "onboarding"
    await crowd.do(view(ada, session="s-2"))
    assert await crowd.stage(ada) == "onboarding"
    await crowd.do(view(ada, session="s-3"))
    await crowd.do(purchase(bob, "1", timestamp=datetime.now(UTC), historical=False))
    await crowd.do(view(ada, session="s-4"), view(bob, session="s-9"))
    assert await crowd.changes(ada) == ["prospect > onboarding (activity)", "onboarding > active (activity)"]
    assert await crowd.changes(bob) == ["prospect > active (activity)"]
    assert (await crowd.log.activity(ada)).session_count == 4


async def test_activity_brings_back_at_once_unless_it_is_old(crowd: Crowd) -> None:
    people = [await crowd.person(stage) for stage in ("at_risk", "dormant", "churned", "dormant")]
    *back, late = people
    before = await crowd.row(back[0])
    await crowd.do(*(view(each, minutes=5) for each in back), view(late, days=15))
    assert [await crowd.stage(each) for each in people] == ["active", "reactivated", "reactivated", "dormant"]
    assert await crowd.changes(late) == []
    after = await crowd.row(back[0])
    assert (after["version"], after["updated_at"] > before["updated_at"]) == (before["version"] + 1, True)


async def test_a_session_a_day_after_the_return_makes_active(crowd: Crowd) -> None:
    ada = await crowd.person("churned")
    await crowd.do(view(ada, days=3))
    await crowd.do(view(ada, days=2.5))
    assert await crowd.stage(ada) == "reactivated"
    await crowd.do(view(ada, days=1))
    assert await crowd.changes(ada) == ["churned > reactivated (activity)", "reactivated > active (activity)"]


async def test_a_callers_stage_holds_against_activity_from_before_it(crowd: Crowd) -> None:
    ada = await crowd.person("churned", set_at=datetime.now(UTC) - timedelta(hours=1))
    await crowd.do(view(ada, hours=2))
    assert await crowd.stage(ada) == "churned"
    await crowd.do(view(ada, minutes=1))
    assert await crowd.stage(ada) == "reactivated"


async def test_the_rules_move_nobody_who_is_pinned_closed_or_without_consent(crowd: Crowd) -> None:
    pinned, closed = await crowd.person("dormant"), await crowd.person("dormant")
    without = await crowd.person("dormant", Purpose.MARKETING)
    async with crowd.database.connection() as connection:
        await connection.execute("UPDATE users SET lifecycle_stage_pinned = true WHERE user_id = $1", pinned)
    deletion = Happening(closed, "user.account_deletion", datetime.now(UTC), historical=False)
    await crowd.do(view(pinned), view(without), view(closed, minutes=1), deletion)
    for each in (pinned, closed, without):
        assert (await crowd.stage(each), await crowd.changes(each)) == ("dormant", [])


async def test_an_event_that_was_set_aside_moves_the_stage_when_it_is_replayed(crowd: Crowd) -> None:
    ada = await crowd.person("dormant")
    happening = view(ada)
    await crowd.log.write(happening)
    async with crowd.database.transaction() as connection:
        await connection.execute(
            """INSERT INTO poison_events
                   (poison_id, consumer, event_id, user_id, timestamp, tries, error_type, status)
               VALUES ('p-1', 'projector', $1, $2, $3, 3, 'Unfoldable', 'open')""",
            happening.event_id,
            ada,
            happening.timestamp,
        )
    async with crowd.database.transaction() as connection:
        await poison.replay(connection, crowd.log.cipher, (), "p-1")
    assert await crowd.changes(ada) == ["dormant > reactivated (activity)"]


async def test_a_change_of_the_profile_during_a_batch_keeps_its_pin_without_a_deadlock(crowd: Crowd) -> None:
    ada = await crowd.person("dormant")
    await crowd.log.write(view(ada))
    follower = crowd.log.follower(shard_of(ada))
    async with crowd.database.transaction() as patch:
        await patch.execute(
            "UPDATE users SET lifecycle_stage = 'churned', lifecycle_stage_pinned = true WHERE user_id = $1", ada
        )
        step = asyncio.create_task(follower.step())
        await until_blocked(crowd.database, 1)
    assert await step is Found.SOME
    assert (await crowd.stage(ada), await crowd.changes(ada)) == ("churned", [])


async def test_after_a_withdrawal_no_stage_event_is_stored(crowd: Crowd) -> None:
    ada = await crowd.person("dormant")
    await crowd.log.write(view(ada))
    follower = crowd.log.follower(shard_of(ada))
    async with crowd.database.transaction() as withdrawal:
        await consents.withdraw(withdrawal, ada, Purpose.DATA_COLLECTION, actor="test")
        step = asyncio.create_task(follower.step())
        await until_blocked(crowd.database, 1)
    assert await step is Found.SOME
    assert (await crowd.stage(ada), await crowd.changes(ada)) == ("dormant", [])


# By inactivity


async def test_a_sweep_moves_the_people_whose_crossing_has_passed(crowd: Crowd) -> None:
    now = datetime.now(UTC)
    days = {"onboarding": 15, "active": 13, "at_risk": 31, "reactivated": 100}
    people = {stage: await crowd.person(stage, last=now - number * DAY) for stage, number in days.items()}
    assert await crowd.sweep() == Swept(4, 3)
    assert await crowd.changes(people["onboarding"]) == ["onboarding > at_risk (inactivity)"]
    assert await crowd.changes(people["active"]) == []
    assert await crowd.changes(people["at_risk"]) == ["at_risk > dormant (inactivity)"]
    assert await crowd.changes(people["reactivated"]) == ["reactivated > churned (inactivity)"]
    assert [await crowd.due_at(each) for each in people.values()] == [
        now + 15 * DAY,
        now + 1 * DAY,
        now + 59 * DAY,
        None,
    ]
    assert await crowd.sweep() == Swept(0, 0)


async def test_activity_sets_when_a_person_is_due_and_a_sweep_moves_that_on(crowd: Crowd) -> None:
    ada = await crowd.person()
    first, second = view(ada, days=20), view(ada, days=2)
    await crowd.do(first)
    await crowd.do(second)
    assert await crowd.due_at(ada) == first.timestamp + 14 * DAY
    assert await crowd.sweep() == Swept(1, 0)
    assert await crowd.due_at(ada) == second.timestamp + 14 * DAY


async def test_a_new_profile_with_an_old_event_is_at_risk_with_the_next_sweep(crowd: Crowd) -> None:
    ada = (await Customer.new(crowd.database, crowd.log.cipher, Purpose.DATA_COLLECTION)).user_id
    assert await crowd.stage(ada) == "onboarding"
    await crowd.do(view(ada, days=20))
    await crowd.sweep()
    assert await crowd.changes(ada) == ["onboarding > at_risk (inactivity)"]


async def test_a_callers_stage_holds_until_the_next_crossing(crowd: Crowd) -> None:
    now = datetime.now(UTC)
    ada = await crowd.person("active", set_at=now - DAY, last=now - 20 * DAY)
    assert await crowd.sweep() == Swept(1, 0)
    assert (await crowd.stage(ada), await crowd.due_at(ada)) == ("active", now + 10 * DAY)


async def test_inactivity_of_imported_people_is_historical_unless_a_live_event_ties(crowd: Crowd) -> None:
    ada, bob, cyd = [await crowd.person() for _ in range(3)]
    last = datetime.now(UTC) - 20 * DAY
    for each, flags in ((ada, (True,)), (bob, (True, False)), (cyd, (False, True))):
        for number, historical in enumerate(flags):
            await crowd.do(Happening(each, timestamp=last, session_id=f"s-{number}", historical=historical))
    await crowd.do(Happening(ada, timestamp=last - DAY, session_id="s-0", historical=False))
    await crowd.sweep()
    assert await crowd.changes(ada) == ["active > at_risk (inactivity)*"]
    assert await crowd.changes(bob) == await crowd.changes(cyd) == ["active > at_risk (inactivity)"]


async def test_the_retention_of_an_inactive_profile_does_not_count_from_a_sweep(crowd: Crowd) -> None:
    ada = await crowd.person(last=datetime.now(UTC) - 20 * DAY)
    before = await crowd.row(ada)
    await crowd.sweep()
    after = await crowd.row(ada)
    assert (after["updated_at"], after["version"]) == (before["updated_at"], before["version"] + 1)


async def test_two_sweeps_share_the_work_and_a_killed_one_loses_and_doubles_nothing(crowd: Crowd) -> None:
    last = datetime.now(UTC) - 20 * DAY
    people = [await crowd.person(last=last) for _ in range(5)]
    async with crowd.database.connection() as dying:
        await dying.execute("BEGIN")
        assert await crowd.sweep(dying, limit=2) == Swept(2, 2)
        assert await crowd.sweep() == Swept(3, 3)
        dying.terminate()
    async with crowd.database.connection() as connection:  # waits until Postgres has rolled it back
        await connection.execute("SELECT FROM users WHERE user_id = ANY($1) FOR UPDATE", people)
    sweeps = StageSweeps(crowd.database, crowd.log.cipher, DEFAULT_PERIODS, batch=1)
    result = await ActivityEnvironment().run(sweeps.sweep)
    assert (result.due, result.moved) == (2, 2)
    for each in people:
        assert await crowd.changes(each) == ["active > at_risk (inactivity)"]


async def test_a_sweep_leaves_out_people_whose_rows_are_locked(crowd: Crowd) -> None:
    """The projector may hold the row of activity, and a request that of the profile."""
    last = datetime.now(UTC) - 20 * DAY
    ada, bob = [await crowd.person(last=last) for _ in range(2)]
    async with crowd.database.transaction() as request, crowd.database.transaction() as projector:
        await request.execute("SELECT FROM users WHERE user_id = $1 FOR UPDATE", ada)
        await projector.execute("SELECT FROM user_activity WHERE user_id = $1 FOR UPDATE", bob)
        assert await crowd.sweep() == Swept(0, 0)
    assert await crowd.sweep() == Swept(2, 2)


async def test_a_stage_event_is_no_activity(crowd: Crowd) -> None:
    ada = await crowd.person(last=datetime.now(UTC) - 20 * DAY)
    await crowd.sweep()
    await drain(crowd.log.follower(shard_of(ada)))
    assert await crowd.changes(ada) == ["active > at_risk (inactivity)"]
    assert (await crowd.log.activity(ada)).session_count == 1
