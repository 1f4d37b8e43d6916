"""Sweeps people whom a crossing may have moved: a batch of them in each transaction.

Two sweeps share the work: each skips the rows that the other has locked, and those that the projector has. A
skipped person stays due. If the worker or Postgres dies before a batch commits, its moves, their events and the
next due times are lost together, and the people are due as before. After the commit they are due later.

A sweep locks rows of users, then buckets, then rows of activity. It waits for buckets alone, and holds no row of
activity meanwhile: a projector that holds such a bucket may wait for one. So it never deadlocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from asyncpg import Record
from sqlalchemy import and_, bindparam, update
from sqlmodel import col

from models.rules.stages import Move, Periods, StageCause, Standing, by_inactivity
from models.tables.people import User
from models.tables.projections import UserActivity
from models.vocabulary import LifecycleStage
from privacy.encryption import Cipher
from store.connection import Connection
from store.consents import locks
from store.events import stage_events
from store.statements import one_of, select, statement, unnested
from store.users import stages
from store.users.stages import MAY_MOVE, STANDING


@dataclass(frozen=True)
class Swept:
    """The people of a batch: those who were due and whom nobody else had locked, and those of them who moved."""

    due: int
    moved: int


_IS_DUE = col(UserActivity.stage_due_at) <= bindparam("now", type_=UserActivity.__table__.c.stage_due_at.type)  # type: ignore[attr-defined]
_LOCK_DUE = statement(
    select(col(User.user_id))
    .select_from(UserActivity)
    .join(User, col(User.user_id) == col(UserActivity.user_id))
    .where(_IS_DUE)
    .order_by(col(UserActivity.stage_due_at))
    .limit(bindparam("limit"))
    .with_for_update(of=User, skip_locked=True)
)
# A statement after the locks: it sees what their holders have committed.
_READ = statement(
    select(
        col(User.user_id),
        *STANDING,
        and_(*MAY_MOVE).label("may_move"),
        col(UserActivity.last_session_date),
        (col(UserActivity.last_historical_at) >= col(UserActivity.last_session_date)).label("historical"),
    )
    .select_from(UserActivity)
    .join(User, col(User.user_id) == col(UserActivity.user_id))
    .where(one_of(col(UserActivity.user_id), "user_ids"), _IS_DUE)
    .with_for_update(of=UserActivity, skip_locked=True)
)


async def sweep(connection: Connection, cipher: Cipher, now: datetime, periods: Periods, limit: int) -> Swept:
    """Move up to ``limit`` people who are due, in the caller's transaction, and set when each is due next."""
    user_ids = [row["user_id"] for row in await _LOCK_DUE.fetch(connection, now=now, limit=limit)]
    if not user_ids:
        return Swept(0, 0)
    await locks.share(connection, user_ids)
    rows = await _READ.fetch(connection, user_ids=user_ids, now=now)
    await _set_due(connection, rows, now, periods)
    moves = {row["user_id"]: [move] for row in rows if (move := _move(row, now, periods))}
    # Of imported people, an event at the same time that isn't historical decides.
    imported = {row["user_id"]: row["last_session_date"] for row in rows if row["historical"]}
    times = {user_id: imported[user_id] for user_id in moves if user_id in imported}
    historical = times.keys() - await stage_events.with_live_event(connection, times)
    moved = await stages.write(connection, cipher, moves, StageCause.INACTIVITY, historical)
    return Swept(len(rows), moved)


def _move(row: Record, now: datetime, periods: Periods) -> Move | None:
    if not row["may_move"] or row["last_session_date"] is None:
        return None
    _, stage, pinned, changed_at, created_at, *_ = row
    standing = Standing(LifecycleStage(stage), pinned, changed_at, created_at)
    return by_inactivity(standing, row["last_session_date"], now, periods)


_GIVEN = unnested("given", col(UserActivity.user_id), col(UserActivity.stage_due_at))
_SET_DUE = statement(
    update(UserActivity)
    .values(stage_due_at=_GIVEN.c.stage_due_at)
    .where(col(UserActivity.user_id) == _GIVEN.c.user_id)
)


async def _set_due(connection: Connection, rows: Sequence[Record], now: datetime, periods: Periods) -> None:
    due = {
        row["user_id"]: last and periods.next_crossing(last, now)
        for row in rows
        for last in [row["last_session_date"]]
    }
    await _SET_DUE.execute(connection, user_id=list(due), stage_due_at=list(due.values()))
