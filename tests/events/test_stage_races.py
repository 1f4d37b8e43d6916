"""Transactions that change the stage of the same people at the same time: no deadlock, and no change is lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from activities.projector import Found
from models.rules import profile as rules
from models.rules.sharding import bucket_of, shard_of
from models.vocabulary import LifecycleStage, Purpose
from privacy.encryption import Cipher
from runtime.database import Database
from store.connection import Connection
from store.consents import consents, locks
from store.consents.consents import ConsentDecision
from store.users import batches, stages, users
from tests.events.test_stages import Crowd, view
from tests.support.locks import until_blocked
from tests.support.log import Log

ROUNDS = 25


@pytest.fixture
def crowd(database: Database, cipher: Cipher) -> Crowd:
    return Crowd(Log(database, cipher))


async def test_the_projector_locks_a_moving_row_before_its_bucket(crowd: Crowd) -> None:
    """A withdrawal holds the row and then waits for the bucket: in the other order both would wait."""
    ada = await crowd.person("dormant")
    await crowd.log.write(view(ada))
    async with asyncio.timeout(30):
        async with crowd.database.transaction() as withdrawing:
            await users.lock_one(withdrawing, crowd.log.cipher, ada)
            step = asyncio.create_task(crowd.log.follower(shard_of(ada)).step())
            await until_blocked(crowd.database, 1)
            await locks.exclude(withdrawing, [ada])
        assert await step is Found.SOME  # after a deadlock it would be None
    assert await crowd.stage(ada) == "reactivated"


async def test_a_batch_that_moves_nobody_locks_no_row(crowd: Crowd) -> None:
    people = [await crowd.person("active"), await crowd.person("onboarding")]
    await crowd.log.write(*(view(each) for each in people))
    async with crowd.database.transaction() as holding:
        await holding.execute("SELECT FROM users WHERE user_id = ANY($1) FOR UPDATE", people)
        async with asyncio.timeout(30):
            await crowd.log.project(sorted({shard_of(each) for each in people}))
    for each in people:
        assert (await crowd.log.activity(each)).session_count == 1


async def test_a_sweep_holds_no_row_of_activity_while_it_waits_for_a_bucket(crowd: Crowd) -> None:
    """A withdrawal waits for the bucket that a projector holds, and the projector may need that row."""
    ada = await crowd.person(last=datetime.now(UTC) - timedelta(days=20))
    async with asyncio.timeout(30):
        async with crowd.database.transaction() as projector:
            await locks.share(projector, [ada])
            withdrawal = asyncio.create_task(_excluding(crowd.database, ada))
            await until_blocked(crowd.database, 1)
            sweep = asyncio.create_task(crowd.sweep())
            await until_blocked(crowd.database, 2)
            await projector.execute("SELECT FROM user_activity WHERE user_id = $1 FOR UPDATE NOWAIT", ada)
        await withdrawal
        await sweep
    assert await crowd.stage(ada) == "at_risk"


async def test_a_batch_takes_the_buckets_of_changed_stages_in_order_with_those_of_withdrawals(
    crowd: Crowd,
) -> None:
    """It takes the higher bucket of a withdrawal after the lower one of a stage, which another one holds."""
    low, high = sorted([await crowd.person() for _ in range(2)], key=bucket_of)
    while bucket_of(low) == bucket_of(high):
        low, high = sorted([low, await crowd.person()], key=bucket_of)
    patches: list[dict[str, Any]] = [
        {"user_id": high, "consents": {"data_collection": False}},
        {"user_id": low, "lifecycle_stage": LifecycleStage.DORMANT},
    ]

    async def upsert() -> None:
        async with crowd.database.transaction() as connection:
            await batches.upsert(connection, crowd.log.cipher, patches, actor="test")

    async with asyncio.timeout(30):
        async with crowd.database.transaction() as holding:
            await locks.exclude(holding, [low])
            task = asyncio.create_task(upsert())
            await until_blocked(crowd.database, 1)
            await locks.exclude(holding, [high])
        await task
    assert await crowd.changes(low) == ["active > dormant (caller)"]


async def _excluding(database: Database, user_id: str) -> None:
    async with database.transaction() as connection:
        await locks.exclude(connection, [user_id])


class Contention:
    """Changes of the same people, each in its own transaction, for some rounds."""

    def __init__(self, crowd: Crowd, people: list[str]) -> None:
        self.crowd = crowd
        self.people = people
        self.cipher = crowd.log.cipher
        self.sessions = itertools.count()

    async def run(self, *changes: Callable[[int], Awaitable[object]]) -> None:
        async def repeat(change: Callable[[int], Awaitable[object]]) -> None:
            for number in range(ROUNDS):
                await change(number)

        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for each in changes:
                group.create_task(repeat(each))

    async def patch(self, number: int) -> None:
        stage = (LifecycleStage.DORMANT, LifecycleStage.PROSPECT, LifecycleStage.ACTIVE)[number % 3]
        user_id = self.people[number % len(self.people)]
        async with self.crowd.database.transaction() as connection:
            locked = await users.lock_one(connection, self.cipher, user_id)
            before = locked.users[user_id].profile
            changed = [each for each in [rules.change(before, {"lifecycle_stage": stage})] if each != before]
            updated = await users.update_locked(connection, self.cipher, locked, changed, actor="test")
            await stages.record_of_callers(connection, self.cipher, locked, updated)

    async def upsert(self, number: int) -> None:
        stage = (LifecycleStage.CHURNED, LifecycleStage.ONBOARDING)[number % 2]
        patches = [{"user_id": each, "lifecycle_stage": stage} for each in reversed(self.people)]
        async with self.crowd.database.transaction() as connection:
            await batches.upsert(connection, self.cipher, patches, actor="test")

    async def set(self, number: int) -> None:
        stage = (LifecycleStage.AT_RISK, LifecycleStage.ACTIVE)[number % 2]
        async with self.crowd.database.transaction() as connection:
            await stages.set_by_workflow(connection, self.cipher, self.people[-1], stage)

    async def visit(self, _: int) -> None:
        await self.crowd.log.write(*(view(each, session=f"s-{next(self.sessions)}") for each in self.people))

    async def project(self, _: int) -> None:
        for shard in sorted({shard_of(each) for each in self.people}):
            found = await self.crowd.log.follower(shard).step()
            assert found is not None, "the projector failed, as after a deadlock"

    async def sweep(self, _: int) -> None:
        async with self.crowd.database.transaction() as connection:
            await connection.execute(
                """UPDATE user_activity SET stage_due_at = now() - interval '1 second'
                    WHERE user_id = $1""",
                self.people[0],
            )
        await self.crowd.sweep()

    async def decide(self, number: int) -> None:
        """Grant and withdraw in turns; no event of the stage comes after a withdrawal's answer."""
        granted = number % 2 == 1
        said = ConsentDecision(Purpose.DATA_COLLECTION, granted, f"s{number}", None, "consent")
        async with self.crowd.database.transaction() as connection:
            await consents.decide(connection, self.people[0], said, actor="test")
        if not granted:
            async with self.crowd.database.connection() as connection:
                before = await self._recorded(connection)
                await asyncio.sleep(0.01)
                assert await self._recorded(connection) == before

    async def _recorded(self, connection: Connection) -> int:
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM events WHERE user_id = $1 AND session_id LIKE 'workflow:%'", self.people[0]
            )
        )


async def _at_a_time(crowd: Crowd) -> list[str]:
    return [await crowd.person("dormant", last=datetime.now(UTC) - timedelta(days=1)) for _ in range(3)]


async def test_each_change_is_recorded_once_and_follows_the_one_before(crowd: Crowd) -> None:
    racing = Contention(crowd, await _at_a_time(crowd))
    await racing.run(racing.patch, racing.upsert, racing.set, racing.visit, racing.project, racing.sweep)
    for each in racing.people:
        changes = [change.split(" (")[0].split(" > ") for change in await crowd.changes(each)]
        assert len(changes) > ROUNDS // 2
        assert all(earlier[1] == later[0] for earlier, later in itertools.pairwise(changes))
        assert changes[-1][1] == await crowd.stage(each)


async def test_no_stage_event_is_stored_while_a_withdrawal_stands(crowd: Crowd) -> None:
    racing = Contention(crowd, await _at_a_time(crowd))
    await racing.run(
        racing.decide, racing.patch, racing.upsert, racing.set, racing.visit, racing.project, racing.sweep
    )
