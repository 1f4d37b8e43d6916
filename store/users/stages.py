"""Moves lifecycle stages by rule (:mod:`models.rules.stages`), and by workflows. Each change is an event.

All lock the users' rows first, then their buckets (:mod:`store.consents.locks`), as a withdrawal does. So no stage
event is stored after a withdrawal was answered. The events commit with the changes: a crash loses both or none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, DateTime, Text, bindparam, column, func, literal_column, update
from sqlmodel import col

from models.rules.folding import LogEvent
from models.rules.stages import (
    MOVED_BY_ACTIVITY,
    Move,
    Periods,
    Signs,
    StageCause,
    Standing,
    by_activity,
    signs_of,
)
from models.tables.people import Consent, User
from models.tables.projections import UserActivity
from models.vocabulary import AccountStatus, LifecycleStage, Purpose
from privacy.encryption import Cipher
from store.connection import Connection
from store.consents import locks
from store.events import stage_events
from store.events.log import LoggedEvent
from store.events.stage_events import StageChange
from store.statements import one_of, select, statement, unnested
from store.users.attribute_times import with_present_time
from store.users.people import Person
from store.users.rows import StoredUser
from store.users.users import LockedUsers

_ONE: ColumnElement[int] = literal_column("1")


def may_move(
    people: Mapping[str, Person], logged: Iterable[LoggedEvent], now: datetime, periods: Periods
) -> set[str]:
    """The users whom a batch of events may move, so that their rows must be locked."""
    movable = {user_id for user_id, each in people.items() if each.stage in MOVED_BY_ACTIVITY and not each.pinned}
    if not movable:
        return set()
    found = signs_of(each.decrypted_with(None) for each in logged if each.user_id in movable)
    return {
        user_id
        for user_id, signs in found.items()
        if by_activity(_at_most(people[user_id], signs), signs, now, periods)
    }


def _at_most(person: Person, signs: Signs) -> Standing:
    """With the most sessions that the person may have after the batch: each event may begin one."""
    held = person.standing
    return Standing(
        held.stage, held.pinned, held.changed_at, held.created_at, held.session_count + len(signs.times)
    )


def _of_user(value: Any, owner: Any, *conditions: Any) -> Any:
    found = select(value).where(owner == col(User.user_id), *conditions)
    return found.limit(_ONE).scalar_subquery()


MAY_MOVE = (
    col(User.account_status) != AccountStatus.CLOSED,
    ~col(User.lifecycle_stage_pinned),
    func.coalesce(
        _of_user(col(Consent.granted), col(Consent.user_id), col(Consent.purpose) == Purpose.DATA_COLLECTION),
        False,
    ),
)
"""Whether the rules may move a user."""
STANDING: list[Any] = [
    col(User.lifecycle_stage),
    col(User.lifecycle_stage_pinned),
    col(User.lifecycle_stage_changed_at),
    col(User.created_at),
]
"""The first columns of a :class:`Standing`."""

_READ = statement(
    select(
        col(User.user_id),
        *STANDING,
        func.coalesce(_of_user(col(UserActivity.session_count), col(UserActivity.user_id)), 0).label("sessions"),
    )
    .where(one_of(col(User.user_id), "user_ids"), *MAY_MOVE)
    .order_by(col(User.user_id))
)


async def move_by_activity(
    connection: Connection,
    cipher: Cipher,
    user_ids: Iterable[str],
    events: Iterable[LogEvent],
    now: datetime,
    periods: Periods,
) -> None:
    """Move the users whom projected events move. Their rows and buckets are locked, and sessions written."""
    wanted = set(user_ids)
    if not wanted:
        return
    signs = signs_of(each for each in events if each.user_id in wanted)
    rows = await _READ.fetch(connection, user_ids=sorted(signs))
    moves = {
        user_id: found
        for user_id, stage, *rest in rows
        if (found := by_activity(Standing(LifecycleStage(stage), *rest), signs[user_id], now, periods))
    }
    historical = {user_id for user_id in moves if signs[user_id].historical}
    await write(connection, cipher, moves, StageCause.ACTIVITY, historical)


_GIVEN = unnested(
    "given",
    col(User.user_id),
    column("source", Text),
    column("target", Text),
    column("changed_at", DateTime(timezone=True)),
)
_HERE = (
    col(User.user_id) == _GIVEN.c.user_id,
    col(User.lifecycle_stage) == _GIVEN.c.source,
    ~col(User.lifecycle_stage_pinned),
)
_BY_ACTIVITY = statement(
    update(User)
    .values(
        lifecycle_stage=_GIVEN.c.target,
        lifecycle_stage_changed_at=_GIVEN.c.changed_at,
        attribute_times=with_present_time("lifecycle_stage"),
        version=col(User.version) + 1,
        updated_at=func.statement_timestamp(),
    )
    .where(*_HERE)
    .returning(col(User.user_id), col(User.version), col(User.created_at))
)
# Without `updated_at`, from which the retention of inactive profiles counts, and without the time of the change:
# activity from before a crossing still counts when it arrives after it.
_BY_INACTIVITY = statement(
    update(User)
    .values(
        lifecycle_stage=_GIVEN.c.target,
        attribute_times=with_present_time("lifecycle_stage"),
        version=col(User.version) + 1,
    )
    .where(*_HERE)
    .returning(col(User.user_id), col(User.version), col(User.created_at))
)


async def write(
    connection: Connection,
    cipher: Cipher,
    moves: Mapping[str, Sequence[Move]],
    cause: StageCause,
    historical: Iterable[str],
) -> int:
    """Write the moves of locked users, and their events; returns the number of users who moved."""
    if not moves:
        return 0
    ordered = sorted(moves)
    statement_ = _BY_ACTIVITY if cause is StageCause.ACTIVITY else _BY_INACTIVITY
    rows = await statement_.fetch(
        connection,
        user_id=ordered,
        source=[moves[user_id][0].source for user_id in ordered],
        target=[moves[user_id][-1].target for user_id in ordered],
        changed_at=[moves[user_id][-1].at for user_id in ordered],
    )
    old = set(historical)
    changes = [
        StageChange(user_id, each.source, each.target, cause, version, created_at, user_id in old, number)
        for user_id, version, created_at in rows
        for number, each in enumerate(moves[user_id])
    ]
    await stage_events.record(connection, cipher, changes)
    return len(rows)


_SET = statement(
    update(User)
    .values(
        lifecycle_stage=bindparam("stage"),
        lifecycle_stage_changed_at=func.statement_timestamp(),
        attribute_times=with_present_time("lifecycle_stage"),
        version=col(User.version) + 1,
        updated_at=func.statement_timestamp(),
    )
    .where(
        col(User.user_id) == bindparam("user_id"),
        ~col(User.lifecycle_stage_pinned),
        col(User.lifecycle_stage) != bindparam("stage"),
    )
    .returning(literal_column("old.lifecycle_stage").label("source"), col(User.version), col(User.created_at))
)


async def set_by_workflow(connection: Connection, cipher: Cipher, user_id: str, stage: LifecycleStage) -> bool:
    """Set a user's stage unless it is pinned; returns whether it changed. A repeated call changes nothing."""
    row = await _SET.fetchrow(connection, user_id=user_id, stage=stage)
    if row is None:
        return False
    await locks.share(connection, [user_id])
    source, version, created_at = row
    change = StageChange(user_id, LifecycleStage(source), stage, StageCause.WORKFLOW, version, created_at)
    await stage_events.record(connection, cipher, [change])
    return True


async def record_of_callers(
    connection: Connection,
    cipher: Cipher,
    locked: LockedUsers,
    updated: Mapping[str, StoredUser],
    historical: Collection[str] = (),
) -> None:
    """Record changes of stages that :func:`store.users.users.update_locked` has written; outside a savepoint.

    Those of the users in ``historical`` start nothing.
    """
    changes = [
        StageChange(
            user_id=user_id,
            source=before,
            target=after.profile.lifecycle_stage,
            cause=StageCause.CALLER,
            version=after.version,
            created_at=after.created_at,
            historical=user_id in historical,
        )
        for user_id, after in updated.items()
        for before in [locked.users[user_id].profile.lifecycle_stage]
        if before is not after.profile.lifecycle_stage
    ]
    await stage_events.record(connection, cipher, changes)
