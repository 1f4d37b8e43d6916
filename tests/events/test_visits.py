"""Visits and the engagement score don't depend on the order of arrival, nor on the batches."""

from __future__ import annotations

import asyncio
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from asyncpg.connection import LoggedQuery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activities.projector import Follower
from models.rules.activity import Activity
from models.rules.engagement import ACTION_WEIGHTS, forward_weight
from models.rules.sharding import shard_of
from models.rules.stages import DEFAULT_PERIODS, Periods
from models.rules.visits import SESSION_TIMEOUT, SessionKey, Span, Visits, VisitTotals, changes, spans_of
from privacy.encryption import Cipher
from runtime.database import Database
from store.connection import Connection
from store.events import poison, visits
from tests.support.locks import until_blocked
from tests.support.log import NOON, Happening, Log, purchase

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
NOW = NOON + 3 * DAY
TYPES = ("engagement.page_view", "user.login", "engagement.share", "user.logout", "lesson.finish")
SESSIONS = ("s-1", "s-2", "workflow:i-1")
Drawn = tuple[str, str, int]
"""A type, a session id, and minutes since noon."""
DRAWN = st.lists(
    st.tuples(st.sampled_from(TYPES), st.sampled_from(SESSIONS), st.integers(-200, 200)), min_size=1, max_size=20
)


@dataclass
class Expected:
    """Computed from all events at once, by the definitions."""

    visits: list[tuple[str, datetime, datetime]]
    seconds: float
    score: float


def recomputed(drawn: Iterable[Drawn]) -> Expected:
    times: dict[str, list[datetime]] = defaultdict(list)
    actions = 0.0
    for event_type, session, minutes in drawn:
        if not session.startswith("workflow:"):
            at = NOON + minutes * MINUTE
            times[session].append(at)
            actions += ACTION_WEIGHTS.get(event_type, 1) * 0.5 ** ((NOW - at) / (14 * DAY))
    made = [(session, *each) for session in sorted(times) for each in _visits(sorted(times[session]))]
    seconds = sum((last - first).total_seconds() for _, first, last in made)
    if not made:
        return Expected([], 0.0, 0.0)
    sessions = sum(0.5 ** ((NOW - first) / (14 * DAY)) for _, first, _ in made)
    days = (NOW - max(last for _, _, last in made)) / DAY
    score = 40 * 0.5 ** (days / 7) + 35 * (1 - math.exp(-sessions / 8)) + 25 * (1 - math.exp(-actions / 20))
    return Expected(made, seconds, score)


def _visits(times: Sequence[datetime]) -> list[Span]:
    begins = [at for number, at in enumerate(times) if number == 0 or at - times[number - 1] >= 30 * MINUTE]
    return [
        (begin, max(at for at in times if begin <= at and (end is None or at < end)))
        for begin, end in zip(begins, [*begins[1:], None], strict=True)
    ]


@dataclass
class Stored:
    """The two tables, in memory."""

    visits: dict[SessionKey, dict[datetime, datetime]] = field(default_factory=lambda: defaultdict(dict))
    totals: VisitTotals = field(default_factory=lambda: VisitTotals(NOON - 999 * DAY))

    def add(self, batch: Iterable[Drawn]) -> None:
        added = Visits()
        for event_type, session, minutes in batch:
            if not session.startswith("workflow:"):
                added.add("u-1", session, event_type, NOON + minutes * MINUTE)
        before = {key: list(each.items()) for key, each in self.visits.items() if each}
        found = changes(spans_of(added.times, SESSION_TIMEOUT), before, added.actions, SESSION_TIMEOUT)
        for user_id, session_id, first in found.gone:
            del self.visits[user_id, session_id][first]
        for user_id, session_id, first, last in found.kept:
            self.visits[user_id, session_id][first] = last
        for total in found.totals.values():
            self.totals = VisitTotals(
                max(self.totals.last_at, total.last_at),
                self.totals.count + total.count,
                self.totals.duration + total.duration,
                self.totals.sessions + total.sessions,
                self.totals.actions + total.actions,
            )

    @property
    def activity(self) -> Activity:
        seconds = self.totals.duration.total_seconds()
        last = self.totals.last_at if self.totals.count else None
        return Activity(self.totals.count, last, seconds, self.totals.sessions, self.totals.actions)


def in_batches(drawn: Sequence[Drawn], random: Any) -> list[list[Drawn]]:
    rest, batches = random.sample(drawn, len(drawn)), []
    while rest:
        batches.append([rest.pop() for _ in range(random.randint(1, len(rest)))])
    return batches


@settings(max_examples=300, deadline=None)
@given(DRAWN, st.randoms(use_true_random=False))
def test_any_order_in_any_batches_gives_the_same_visits_and_score(drawn: list[Drawn], random: Any) -> None:
    at_once, in_disorder = Stored(), Stored()
    at_once.add(sorted(drawn, key=lambda each: each[2]))
    for batch in in_batches(drawn, random):
        in_disorder.add(batch)
    assert in_disorder.activity == at_once.activity
    expected = recomputed(drawn)
    for stored in (at_once, in_disorder):
        found = [(key[1], *each) for key, spans in stored.visits.items() for each in spans.items()]
        assert sorted(found) == expected.visits
        check(stored.activity, expected)


def check(activity: Activity, expected: Expected) -> None:
    """The totals and the score follow from the events."""
    assert activity.session_count == len(expected.visits)
    assert activity.total_session_seconds == expected.seconds
    score = activity.engagement_score(NOW, profiling=True)
    assert score is not None
    assert abs(score - expected.score) <= 0.0501


@pytest.fixture
def log(database: Database, cipher: Cipher) -> Log:
    return Log(database, cipher)


async def stored_visits(log: Log, user: str) -> list[tuple[str, datetime, datetime]]:
    async with log.database.connection() as connection:
        rows = await connection.fetch(
            "SELECT session_id, first_at, last_at FROM sessions WHERE user_id = $1 ORDER BY 1, 2", user
        )
    return [tuple(row) for row in rows]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DRAWN, st.randoms(use_true_random=False))
async def test_the_projector_stores_what_follows_from_all_events(
    log: Log, drawn: list[Drawn], random: Any
) -> None:
    user, at_once = await log.person(), await log.person()
    for batch in in_batches(drawn, random):
        await write(log, user, batch)
    await write(log, at_once, drawn)
    expected = recomputed(drawn)
    assert await stored_visits(log, user) == expected.visits
    check(await log.activity(user), expected)
    assert await log.activity(user) == await log.activity(at_once)


async def write(log: Log, user: str, drawn: Iterable[Drawn]) -> None:
    """Write events and project them in one batch."""
    await log.write(
        *(
            Happening(user, event_type, timestamp=NOON + minutes * MINUTE, session_id=session)
            for event_type, session, minutes in drawn
        )
    )
    await log.project([shard_of(user)])


def views(*minutes: int, session: str = "s-1") -> list[Drawn]:
    return [("engagement.page_view", session, each) for each in minutes]


async def test_a_late_event_joins_two_visits_into_one(log: Log) -> None:
    user = await log.person()
    await write(log, user, views(0, 10, 60))
    apart = await log.activity(user)
    assert (apart.session_count, apart.total_session_seconds) == (2, 600)
    await write(log, user, views(35))
    joined = await log.activity(user)
    assert (joined.session_count, joined.total_session_seconds) == (1, 3600)
    assert await stored_visits(log, user) == [("s-1", NOON, NOON + 60 * MINUTE)]
    assert joined.decayed_sessions < apart.decayed_sessions


async def test_thirty_minutes_without_an_event_end_a_session(log: Log) -> None:
    user, other = await log.person(), await log.person()
    await write(log, user, views(0))
    await write(log, user, views(30))
    await write(log, other, views(0))
    await write(log, other, views(29))
    assert (await log.activity(user)).session_count == 2
    assert (await log.activity(other)).session_count == 1


async def test_a_session_id_that_never_changes_makes_a_session_a_visit(log: Log) -> None:
    """Nine days, ten minutes every six hours, the days in disorder."""
    user = await log.person()
    for day in (4, 0, 8, 2, 6, 1, 7, 3, 5):
        for hour in (12, 0, 18, 6):
            begins = (day * 24 + hour) * 60
            await write(log, user, views(begins + 10, begins, begins + 5))
    found = await log.activity(user)
    assert (found.session_count, found.total_session_seconds) == (36, 36 * 600)


async def test_the_timeout_is_a_setting(database: Database, cipher: Cipher, log: Log) -> None:
    user = await log.person()
    await log.write(*(Happening(user, timestamp=NOON + each * MINUTE) for each in (0, 6, 20)))
    follower = Follower(database, cipher, (), shard_of(user), Periods(session_timeout=timedelta(minutes=10)))
    await follower.step()
    assert (await log.activity(user)).session_count == 2


async def test_the_read_of_a_session_id_with_many_visits_looks_at_few_of_them(log: Log) -> None:
    user = await log.person()
    await log.write(*(Happening(user, timestamp=NOON + each * DAY / 24) for each in range(1000)))
    await log.project([shard_of(user)])
    late = Visits()
    late.add(user, "s-1", "engagement.page_view", NOON + 40 * DAY + MINUTE)
    statements: list[LoggedQuery] = []
    async with log.database.transaction() as connection:
        with connection.query_logger(statements.append):
            await visits.write(connection, late, DEFAULT_PERIODS)
        read = statements[0]
        await connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        plan = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {read.query}", *read.args)
    looked_at = re.findall(r'"Actual Rows": ([0-9.]+)|"Rows Removed by Filter": ([0-9.]+)', plan)
    assert looked_at
    assert not [each for each in looked_at if float(each[0] or each[1]) > 1]
    assert (await log.activity(user)).session_count == 1000


async def test_a_replay_and_the_projector_merge_visits_one_after_the_other(log: Log) -> None:
    user = await log.person()
    await write(log, user, views(0, 50))
    at = NOON + 25 * MINUTE
    await log.write(Happening(user, "transaction.refund", timestamp=at, event_id="joins"))
    await log.project([shard_of(user)])
    async with log.database.connection() as connection:
        aside = await connection.fetchval("SELECT poison_id FROM poison_events WHERE event_id = 'joins'")
        await connection.execute("DELETE FROM events WHERE event_id = 'joins'")
    assert (await log.activity(user)).session_count == 2
    mended = purchase(user, 1, event_type="transaction.refund", timestamp=at, event_id="joins")
    async with log.database.transaction() as connection:
        await log.insert(connection, [mended])
    await log.write(Happening(user, timestamp=NOON + 60 * MINUTE))
    async with log.database.transaction() as connection:
        # the mended event is in the log as if it had been projected
        await skip(connection, shard_of(user), "joins")
    async with log.database.transaction() as connection:
        await poison.replay(connection, log.cipher, (), aside)
        step = asyncio.create_task(log.follower(shard_of(user)).step())
        await until_blocked(log.database, 1)
    await step
    assert await stored_visits(log, user) == [("s-1", NOON, NOON + 60 * MINUTE)]
    found = await log.activity(user)
    assert (found.session_count, found.total_session_seconds) == (1, 3600)
    assert found.decayed_sessions == forward_weight(NOON)


async def skip(connection: Connection, shard: int, event_id: str) -> None:
    """Move the projector's cursor to an event, without projecting it."""
    await connection.execute(
        """UPDATE log_cursors c SET generation = e.generation, xid = e.xid, sequence = e.sequence
             FROM events e WHERE e.event_id = $1 AND c.shard = $2""",
        event_id,
        shard,
    )


async def test_a_visit_that_retention_deletes_after_the_read_is_stored_again(log: Log) -> None:
    user = await log.person()
    await write(log, user, views(0))
    await log.write(Happening(user, timestamp=NOON + 10 * MINUTE))
    async with log.database.transaction() as retention:
        await retention.execute("DELETE FROM sessions WHERE user_id = $1", user)
        step = asyncio.create_task(log.follower(shard_of(user)).step())
        await until_blocked(log.database, 1)
    await step
    assert await stored_visits(log, user) == [("s-1", NOON, NOON + 10 * MINUTE)]
    found = await log.activity(user)
    assert (found.session_count, found.total_session_seconds) == (1, 600)
