"""An event closes its user's account, once, and waits for transactions that change the profile."""

from __future__ import annotations

import asyncio

import pytest

from activities.projector import Found
from models.rules.sharding import shard_of
from models.vocabulary import AccountStatus
from privacy.encryption import Cipher
from runtime.database import Database
from store.consents import locks
from store.events import poison
from store.users import users
from store.users.rows import StoredUser
from tests.support.locks import until_blocked
from tests.support.log import Happening, Log, purchase

DELETION = "user.account_deletion"


@pytest.fixture
def log(database: Database, cipher: Cipher) -> Log:
    return Log(database, cipher)


async def profile(log: Log, user: str) -> StoredUser:
    async with log.database.connection() as connection:
        return await users.find(connection, log.cipher, user)


async def test_a_deletion_event_closes_the_account(log: Log) -> None:
    user, other = await log.person(shard=2), await log.person(shard=2)
    before = await profile(log, user)
    await log.write(purchase(user, "1"), Happening(user, DELETION), purchase(user, "1"), purchase(other, "1"))
    await log.project()
    closed = await profile(log, user)
    assert closed.profile.account_status is AccountStatus.CLOSED
    assert closed.version == before.version + 1
    assert closed.updated_at > before.updated_at
    assert closed.activity.total_purchases == 2
    assert (await profile(log, other)).profile.account_status is not AccountStatus.CLOSED


async def test_an_account_closes_once(log: Log) -> None:
    user = await log.person()
    async with log.database.connection() as connection:
        since = "SELECT closed_at FROM users WHERE user_id = $1"
        await log.write(Happening(user, DELETION), Happening(user, DELETION))
        await log.project()
        first, closed_at = await profile(log, user), await connection.fetchval(since, user)
        await log.write(Happening(user, DELETION))
        await log.project()
        assert closed_at is not None
        assert await connection.fetchval(since, user) == closed_at
        assert (await profile(log, user)).version == first.version


async def test_a_deletion_event_that_was_set_aside_closes_the_account_when_it_is_replayed(log: Log) -> None:
    user = await log.person()
    deletion = Happening(user, DELETION)
    await log.write(deletion)
    async with log.database.transaction() as connection:
        await connection.execute(
            """INSERT INTO poison_events
                   (poison_id, consumer, event_id, user_id, timestamp, tries, error_type, status)
               VALUES ('p-1', 'projector', $1, $2, $3, 3, 'Unfoldable', 'open')""",
            deletion.event_id,
            user,
            deletion.timestamp,
        )
    async with log.database.transaction() as connection:
        await poison.replay(connection, log.cipher, (), "p-1")
    assert (await profile(log, user)).profile.account_status is AccountStatus.CLOSED


async def test_closing_an_account_waits_for_a_withdrawal_without_a_deadlock(log: Log) -> None:
    """A withdrawal holds the row and then waits for the bucket, so the projector must not hold the bucket."""
    user = await log.person()
    await log.write(Happening(user, DELETION))
    async with asyncio.timeout(30):
        async with log.database.transaction() as withdrawing:
            await users.lock_one(withdrawing, log.cipher, user)
            closing = asyncio.create_task(log.follower(shard_of(user)).step())
            await until_blocked(log.database, 1)
            await locks.exclude(withdrawing, [user])
        assert await closing is Found.SOME  # after a deadlock it would be None
    assert (await profile(log, user)).profile.account_status is AccountStatus.CLOSED


@pytest.mark.parametrize("event_type", ["engagement.page_view", DELETION])
async def test_the_projector_waits_for_an_exclusive_lock_on_a_consent(log: Log, event_type: str) -> None:
    """An erasure or a withdrawal is under way: the projector must see it."""
    user = await log.person()
    await log.write(Happening(user, event_type))
    async with asyncio.timeout(30):
        async with log.database.transaction() as withdrawing:
            await locks.exclude(withdrawing, [user])
            projecting = asyncio.create_task(log.follower(shard_of(user)).step())
            await until_blocked(log.database, 1)
            assert not projecting.done()
        assert await projecting is Found.SOME
