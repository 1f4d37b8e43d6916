"""From the log to the profile: each event counts exactly once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from asyncpg.connection import LoggedQuery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activities.projector import Follower, Found
from models.errors import StillUnusableError
from models.rules.activity import Activity, CurrencyTotal
from models.rules.sharding import shard_of
from models.rules.triggers import Trigger, WorkflowTrigger
from privacy.encryption import Cipher
from privacy.keyring import KeyRing, KeySet
from runtime.database import Database
from runtime.embedded.postgres import EmbeddedPostgres
from store.connection import Connection
from store.events import log as store_log
from store.events import poison
from tests.support.log import NOON, Happening, Log, click, drain, purchase
from tests.support.logs import logged

MINUTE = timedelta(minutes=1)
REFUND = "transaction.refund"


@pytest.fixture
def log(database: Database, cipher: Cipher) -> Log:
    return Log(database, cipher)


@pytest.fixture
async def refusing(
    owner: asyncpg.Connection[asyncpg.Record], postgres: EmbeddedPostgres
) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """The owner's connection; after the test the runtime role may write sessions again."""
    yield owner
    await owner.execute("GRANT INSERT ON sessions TO perennial_app")


async def test_sessions_run_from_their_first_to_their_last_event(log: Log) -> None:
    user = await log.person()
    await log.write(
        Happening(user, timestamp=NOON + 10 * MINUTE),
        Happening(user, timestamp=NOON),
        Happening(user, timestamp=NOON + 60 * MINUTE, session_id="s-2"),
    )
    await log.project()
    await log.write(Happening(user, timestamp=NOON + 5 * MINUTE), Happening(user, timestamp=NOON - MINUTE))
    await log.project()
    activity = await log.activity(user)
    assert activity.session_count == 2
    assert activity.last_session_date == NOON + 60 * MINUTE
    assert activity.total_session_seconds == 11 * 60


async def test_purchases_and_refunds_add_up_within_each_currency(log: Log) -> None:
    user = await log.person()
    await log.write(purchase(user, "19.99"), purchase(user, 0), purchase(user, 0.1, "EUR"))
    await log.project()
    await log.write(
        purchase(user, "5.00", event_type=REFUND, timestamp=NOON + MINUTE),
        purchase(user, "7", "GBP", event_type=REFUND),
        purchase(user, 0.2, "EUR", timestamp=NOON + MINUTE),
    )
    await log.project()
    assert (await log.activity(user)).totals == (
        CurrencyTotal("EUR", 2, Decimal("0.3"), NOON + MINUTE, NOON),
        CurrencyTotal("GBP", 0, Decimal("-7"), None),
        CurrencyTotal("USD", 2, Decimal("14.99"), NOON, NOON),
    )


async def test_uses_of_features_are_counted(log: Log) -> None:
    user = await log.person()
    await log.write(click(user, "export"), click(user, "export"), click(user, "share"))
    await log.project()
    await log.write(click(user, "export"))
    await log.project()
    assert (await log.activity(user)).features == {"export": 3, "share": 1}


DRAWN = st.lists(
    st.tuples(
        st.sampled_from(["view", "export", "share", "0.10", "19.99", "-0.30"]),
        st.integers(0, 50_000_000),
        st.sampled_from(["s-1", "s-2", "s-3"]),
        st.sampled_from(["USD", "EUR"]),
    ),
    min_size=1,
    max_size=10,
)


def happening(user: str, drawn: tuple[str, int, str, str]) -> Happening:
    what, microseconds, session, currency = drawn
    when: dict[str, Any] = {"timestamp": NOON + timedelta(microseconds=microseconds), "session_id": session}
    if what == "view":
        return Happening(user, **when)
    if what.isalpha():
        return click(user, what, **when)
    if what.startswith("-"):
        return purchase(user, what[1:], currency, event_type=REFUND, **when)
    return purchase(user, what, currency, **when)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DRAWN, st.randoms(use_true_random=False))
async def test_any_order_in_any_batches_gives_the_same_profile(log: Log, drawn: list[Any], random: Any) -> None:
    in_order, in_disorder = await log.person(), await log.person()
    await log.write(*(happening(in_order, each) for each in sorted(drawn, key=lambda each: each[1])))
    await log.project([shard_of(in_order)])
    random.shuffle(drawn)
    while drawn:
        some = [drawn.pop() for _ in range(random.randint(1, len(drawn)))]
        await log.write(*(happening(in_disorder, each) for each in some))
        await log.project([shard_of(in_disorder)])
    assert await log.activity(in_order) == await log.activity(in_disorder) != Activity()


async def test_an_event_that_commits_late_is_projected_when_it_commits(log: Log) -> None:
    user = await log.person()
    follower = log.follower(shard_of(user))
    await log.write(purchase(user, "1"))
    await drain(follower)
    async with log.database.transaction() as late:
        await log.insert(late, [purchase(user, "10")])
        await log.write(purchase(user, "100"))
        assert await follower.step() is Found.UNSETTLED
        assert (await log.activity(user)).total_purchases == 1
    await drain(follower)
    assert (await log.activity(user)).totals[0].revenue == 111


async def test_rows_behind_an_open_transaction_are_not_read(log: Log) -> None:
    """Otherwise each read would cost as much as there are waiting rows, a hundred times a second."""
    user = await log.person()
    statements: list[LoggedQuery] = []
    async with log.database.transaction() as late, log.database.transaction() as connection:
        await late.fetchval("SELECT pg_current_xact_id()")
        await log.write(*(purchase(user, "1") for _ in range(100)))
        with connection.query_logger(statements.append):
            assert await store_log.read(connection, shard_of(user), store_log.BEGINNING, 5000) == []
        await connection.execute("SET LOCAL enable_seqscan = off")
        [read] = statements
        plan = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {read.query}", *read.args)
    looked_at = re.findall(r'"Actual Rows": ([0-9.]+)|"Rows Removed by Filter": ([0-9.]+)', plan)
    assert looked_at
    assert not [each for each in looked_at if float(each[0] or each[1]) > 1]  # the generation is a row


async def test_an_event_that_is_rolled_back_is_not_projected(log: Log) -> None:
    user = await log.person()
    follower = log.follower(shard_of(user))
    await log.write(purchase(user, "1"))
    async with log.database.connection() as connection:
        late = connection.transaction()
        await late.start()
        await log.insert(connection, [purchase(user, "10")])
        await log.write(purchase(user, "100"))
        await drain(follower)
        await late.rollback()
    await drain(follower)
    assert (await log.activity(user)).totals[0].revenue == 101


async def test_a_write_transaction_in_another_database_delays_events_and_loses_none(
    log: Log, postgres: EmbeddedPostgres
) -> None:
    user = await log.person()
    follower = log.follower(shard_of(user))
    await log.write(purchase(user, "1"))
    await drain(follower)
    elsewhere = await asyncpg.connect(postgres.superuser_url)
    try:
        transaction = elsewhere.transaction()
        await transaction.start()
        await elsewhere.fetchval("SELECT pg_current_xact_id()")
        await log.write(purchase(user, "10"))
        assert await follower.step() is Found.UNSETTLED
        await transaction.rollback()
    finally:
        await elsewhere.close()
    await drain(follower)
    assert (await log.activity(user)).totals[0].revenue == 11


async def test_many_concurrent_writers_lose_no_event(log: Log) -> None:
    """Overlapping transactions of different lengths, while a follower reads the shard."""
    user = await log.person()
    await log.write(purchase(user, "1"))
    follower = log.follower(shard_of(user))

    async def writer(number: int) -> None:
        for turn in range(10):
            async with log.database.transaction() as connection:
                await log.insert(connection, [purchase(user, "1")])
                await asyncio.sleep((number * turn) % 7 / 500)

    writing = asyncio.gather(*(writer(number) for number in range(6)))
    while not writing.done():
        await follower.step()
    await writing
    await drain(follower)
    assert (await log.activity(user)).total_purchases == 61


async def test_several_followers_of_one_shard_count_each_event_once(log: Log) -> None:
    user = await log.person()
    followers = [log.follower(shard_of(user)) for _ in range(3)]
    for round_ in range(5):
        await log.write(*(purchase(user, "1") for _ in range(20)), click(user, "export"))
        await asyncio.gather(*(drain(follower) for follower in followers))
        await drain(followers[0])
        activity = await log.activity(user)
        assert activity.total_purchases == 20 * (round_ + 1)
        assert activity.features == {"export": round_ + 1}


async def test_a_batch_whose_cursor_was_moved_is_rolled_back(log: Log) -> None:
    user = await log.person()
    shard = shard_of(user)
    follower = log.follower(shard)
    await log.write(purchase(user, "1"))
    await drain(follower)
    await log.write(purchase(user, "10"))
    async with log.database.transaction() as connection:
        position = await store_log.cursor(connection, "projector", shard)
        (logged,) = await store_log.read(connection, shard, position, 10)
        await store_log.move(connection, "projector", shard, position, logged.position)
        overtaken = asyncio.create_task(follower.step())
        await asyncio.sleep(0.2)
        assert not overtaken.done()
    assert await overtaken is None
    await drain(follower)
    assert (await log.activity(user)).total_purchases == 1


async def test_batches_are_bounded_and_no_event_is_left_between_them(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activities.projector.BATCH", 7)
    user = await log.person()
    await log.write(*(purchase(user, "1") for _ in range(30)))
    follower = log.follower(shard_of(user))
    assert [await follower.step() for _ in range(6)] == [Found.FULL] * 4 + [Found.SOME, Found.NOTHING]
    assert (await log.activity(user)).total_purchases == 30


async def test_events_of_erased_users_are_skipped(log: Log) -> None:
    user = await log.person(shard=0)
    erased = await log.person(shard=0)
    await log.write(purchase(erased, "1"), purchase(user, "1"))
    async with log.database.connection() as connection:
        await connection.execute("UPDATE data_keys SET wrapped = NULL WHERE subject = $1", erased)
    await log.project()
    assert (await log.activity(user)).total_purchases == 1
    async with log.database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM sessions WHERE user_id = $1", erased) == 0
        assert await connection.fetchval("SELECT count(*) FROM poison_events") == 0


async def poisoned(log: Log) -> list[tuple[Any, ...]]:
    async with log.database.connection() as connection:
        rows = await connection.fetch("SELECT event_id, tries, error_type, status FROM poison_events ORDER BY 1")
        return [tuple(row) for row in rows]


async def test_an_event_that_cannot_be_projected_is_set_aside_and_stops_no_other(log: Log) -> None:
    user = await log.person(shard=1)
    other = await log.person(shard=1)
    await log.write(purchase(user, "1"))
    await log.write(purchase(user, "a secret", event_id="bad-amount"))
    await log.write(purchase(user, "1", event_id="bad-body"), raw=b"\x01 does not open at all, by no key")
    await log.write(click(user, "nul \x00 in it", event_id="bad-in-postgres", session_id="of-poison"))
    await log.write(*(purchase(other, "1") for _ in range(10)), purchase(user, "1"))
    await log.project()
    assert (await log.activity(user)).total_purchases == 2
    assert (await log.activity(other)).total_purchases == 10
    assert await poisoned(log) == [
        ("bad-amount", 3, "InvalidAmountError", "open"),
        ("bad-body", 3, "DecryptionError", "open"),
        ("bad-in-postgres", 3, "CharacterNotInRepertoireError", "open"),
    ]
    async with log.database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM sessions WHERE session_id = 'of-poison'") == 0


async def test_an_error_that_no_event_causes_sets_none_aside(
    log: Log, refusing: asyncpg.Connection[asyncpg.Record]
) -> None:
    user = await log.person()
    follower = log.follower(shard_of(user))
    await log.write(purchase(user, "1"), purchase(user, "1"))
    await refusing.execute("REVOKE INSERT ON sessions FROM perennial_app")
    assert [await follower.step() for _ in range(5)] == [None] * 5
    assert await poisoned(log) == []
    await refusing.execute("GRANT INSERT ON sessions TO perennial_app")
    await drain(follower)
    assert (await log.activity(user)).total_purchases == 2


async def test_a_bug_stops_the_shard_and_sets_no_event_aside(log: Log) -> None:
    """The age of this trigger can't be compared with an event's: every event fails."""
    user = await log.person()
    of_a_bug = WorkflowTrigger("onboarding", Trigger("*", max_age="an hour"))  # type: ignore[arg-type]
    follower = Follower(log.database, log.cipher, (of_a_bug,), shard_of(user))
    await log.write(*(purchase(user, "1", historical=False) for _ in range(3)))
    with logged("perennial.projector") as lines:
        assert [await follower.step() for _ in range(20)] == [None] * 20
    assert [line["error"]["type"] for line in lines()] == ["builtins.TypeError"]
    assert await poisoned(log) == []
    await log.project()
    assert (await log.activity(user)).total_purchases == 3


async def test_a_missing_key_encryption_key_stops_the_shard_until_it_is_there(log: Log, key_ring: KeyRing) -> None:
    """Another process uses a new key-encryption key before this process has it."""
    added = KeySet("added", {**key_ring.kek.keys, "added": bytes(range(32))})
    rotated = Log(log.database, Cipher(KeyRing(added, key_ring.payload, key_ring.blind_index)))
    old, new = await log.person(shard=2), await rotated.person(shard=2)
    await rotated.write(purchase(old, "1"), purchase(new, "1"))
    left_behind = log.follower(2)
    with logged("perennial.projector") as lines:
        assert [await left_behind.step() for _ in range(20)] == [None] * 20
    (line,) = lines()
    assert (line["level"], line["shard"]) == ("error", 2)
    assert line["message"].endswith("opens its data keys: the key ring has no key-encryption key 'added'")
    assert await poisoned(log) == []
    await rotated.project([2])
    assert [(await rotated.activity(each)).total_purchases for each in (old, new)] == [1, 1]


async def test_a_damaged_data_key_affects_no_other_user_and_its_events_are_set_aside(
    log: Log, owner: Connection
) -> None:
    harmed, other = await log.person(shard=2), await log.person(shard=2)
    await log.write(purchase(harmed, "1"), purchase(other, "1"))
    intact = await owner.fetchval("SELECT wrapped FROM data_keys WHERE subject = $1", harmed)
    change = "UPDATE data_keys SET wrapped = $2 WHERE subject = $1"
    await owner.execute(change, harmed, intact[:-1] + bytes([intact[-1] ^ 1]))
    await log.project([2])
    assert [(error, status) for _, _, error, status in await poisoned(log)] == [("DecryptionError", "open")]
    aside = await owner.fetchval("SELECT poison_id FROM poison_events WHERE user_id = $1", harmed)
    assert (await log.activity(other)).total_purchases == 1
    with pytest.raises(StillUnusableError):
        async with log.database.transaction() as connection:
            await poison.replay(connection, log.cipher, (), aside)
    await owner.execute(change, harmed, intact)
    async with log.database.transaction() as connection:
        await poison.replay(connection, log.cipher, (), aside)
    assert (await log.activity(harmed)).total_purchases == 1
