"""Writes to ``instances`` that don't end an instance. :mod:`store.instances.states` lists all writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import LargeBinary, Text, and_, bindparam, cast, delete, func, null, or_, text, true, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlmodel import col

from models.instances import NewInstance
from models.tables.events import Event
from models.tables.execution import DeadLetter, Instance
from models.temporal.execution import Progress
from models.vocabulary import InstanceStatus, ProblemKind
from privacy.encryption import DataKey
from store import outbox
from store.connection import Connection
from store.instances import callbacks, dead_letters, triggers, waits
from store.instances.states import (
    ACCOUNT_CLOSED,
    CONSENT_WITHDRAWN,
    EDGES,
    ENDED,
    FENCE,
    NOT_STARTED,
    UNCHANGED,
    UNFINISHED,
    keeps_status,
    transition,
)
from store.pacing import each
from store.statements import one_of, parameters, select, sql, statement, unnested

ENTER_STEP = f"""
    UPDATE instances SET current_step = :step, run_id = :run_id, waits_until = CAST(:waits_until AS jsonb)
    WHERE instance_id = :instance_id AND {FENCE}
"""
"""Part of the statement of :func:`store.instances.attempts.begin_attempt`: a step begins in one round trip."""
EDGES["enter_step"] = UNCHANGED

_THIS = col(Instance.instance_id) == bindparam("instance_id")
_NO_END = col(Instance.end_time).is_(None)
_CURRENT = text(FENCE)


@dataclass(frozen=True)
class Inserted:
    start_time: datetime
    begun: bool
    """Whether a run has recorded something, or the instance has ended: it must not start again."""


_INSERT = statement(
    upsert(Instance)
    .values(
        status=InstanceStatus.RUNNING.value,
        **parameters(
            "instance_id",
            "workflow_id",
            "user_id",
            "max_attempts",
            "parameters",
            "started_by",
            "purpose",
            "key_digest",
        ),
    )
    .on_conflict_do_update(
        index_elements=[col(Instance.instance_id)],
        set_={
            "status": InstanceStatus.RUNNING.value,
            "end_time": null(),
            "error": null(),
            "reason": null(),
            "start_time": func.now(),
        },
        where=and_(col(Instance.reason) == NOT_STARTED, col(Instance.run_id).is_(None)),
    )
    .returning(col(Instance.start_time))
)
_FOUND = statement(
    select(
        col(Instance.start_time), or_(col(Instance.run_id).is_not(None), col(Instance.end_time).is_not(None))
    ).where(_THIS)
)


@transition((None, InstanceStatus.FAILED), (InstanceStatus.RUNNING,))
async def insert(connection: Connection, key: DataKey, new: NewInstance) -> Inserted:
    """Store an instance before Temporal starts it. An existing row stays, unless it is ``not_started``."""
    start_time = await _INSERT.fetchval(
        connection,
        instance_id=new.instance_id,
        workflow_id=new.workflow_id,
        user_id=new.user_id,
        max_attempts=new.max_attempts,
        parameters=key.encrypt_json("instances.parameters", new.parameters, new.instance_id),
        started_by=new.started_by,
        purpose=new.purpose.value if new.purpose else None,
        key_digest=new.key_digest,
    )
    if start_time is not None:
        return Inserted(start_time, begun=False)
    row = await _FOUND.fetchrow(connection, instance_id=new.instance_id)
    assert row is not None  # the insert conflicted with it
    return Inserted(*row)


_EACH = ("instance_id", "user_id", "parameters", "key_digest")
_NEW = unnested("new", *(Instance.__table__.c[name] for name in _EACH))  # type: ignore[attr-defined]
_OF_BULK = ("workflow_id", "status", "max_attempts", "started_by", "purpose", "bulk_id")
_INSERT_ALL = statement(
    upsert(Instance)
    .from_select(
        [*_EACH, *_OF_BULK],
        select(*_NEW.c, *(cast(bindparam(name), Instance.__table__.c[name].type) for name in _OF_BULK)),  # type: ignore[attr-defined]
    )
    .on_conflict_do_nothing()
    .returning(col(Instance.user_id))
)


@transition((None,), (InstanceStatus.RUNNING,))
async def insert_all(
    connection: Connection, bulk_id: str, new: Sequence[NewInstance], keys: Mapping[str, DataKey]
) -> set[str]:
    """Store the instances of a bulk, which differ in ids, users and key digests alone; ``keys`` by user.

    Returns the users of the stored ones. Another instance of a user prevents it, if it runs with the same key.
    """
    if not new:
        return set()
    first = new[0]
    encrypted = await each(
        lambda one: keys[one.user_id].encrypt_json("instances.parameters", one.parameters, one.instance_id), new
    )
    rows = await _INSERT_ALL.fetch(
        connection,
        instance_id=[one.instance_id for one in new],
        user_id=[one.user_id for one in new],
        parameters=encrypted,
        key_digest=[one.key_digest for one in new],
        workflow_id=first.workflow_id,
        status=InstanceStatus.RUNNING.value,
        max_attempts=first.max_attempts,
        started_by=first.started_by,
        purpose=first.purpose.value if first.purpose else None,
        bulk_id=bulk_id,
    )
    return {row["user_id"] for row in rows}


_RECORD_TRIGGER = statement(
    update(Instance)
    .values(
        trigger_event_id=col(Event.event_id),
        trigger_event_type=col(Event.event_type),
        triggered_at=col(Event.timestamp),
        events_since=col(Event.received_at),
        events_from=func.least(col(Event.timestamp), col(Event.received_at)),
    )
    .where(
        _THIS,
        col(Instance.trigger_event_id).is_(None),
        _NO_END,
        # With the user and the time, the log's index by user finds the event.
        col(Event.user_id) == col(Instance.user_id),
        col(Event.timestamp) == bindparam("happened_at"),
        col(Event.event_id) == bindparam("event_id"),
    )
)


@keeps_status
async def record_trigger(connection: Connection, instance_id: str, event_id: str, happened_at: datetime) -> None:
    """Record the event that started an instance.

    The start may be later than the event. So waits and exits count events from that event on: those that happened
    after it, whenever they were received, and those received since then and not timestamped before it. If the
    event's timestamp is later than its receipt, the receipt counts for the latter.
    """
    await _RECORD_TRIGGER.execute(connection, instance_id=instance_id, event_id=event_id, happened_at=happened_at)


_RECORD_PROGRESS = statement(
    update(Instance)
    .values(
        variables=func.coalesce(bindparam("variables", type_=LargeBinary()), col(Instance.variables)),
        **parameters("status", "current_step", "run_id", "waits_until"),
    )
    .where(_THIS, _CURRENT)
    .returning(col(Instance.replaced_runs))
)


@transition(UNFINISHED, UNFINISHED)
async def record_progress(connection: Connection, key: DataKey, progress: Progress, run_id: str) -> bool:
    """Write the status, the step and the variables, and the results of waits that have ended.

    Returns False and writes nothing if the instance has ended or a replay has replaced the run. Progress of a
    replayed run means that it has passed the journey's error, so that error's dead letter becomes ``replayed``.
    """
    replaced_runs = await _RECORD_PROGRESS.fetchval(
        connection,
        instance_id=progress.instance_id,
        status=progress.status.value,
        current_step=progress.current_step,
        run_id=run_id,
        waits_until=progress.waits_until or None,
        variables=key.encrypt_json("instances.variables", progress.variables, progress.instance_id),
    )
    if replaced_runs is None:
        return False
    if replaced_runs:
        await dead_letters.mark_replayed(connection, progress.instance_id, dead_letters.NO_STEP)
    await waits.end(connection, key, progress.instance_id, progress.waits)
    return True


_REQUEST_REPLAY = statement(
    update(Instance)
    .values(
        status=InstanceStatus.RUNNING.value,
        end_time=null(),
        error=null(),
        reason=null(),
        problem=null(),
        problem_since=null(),
        replayed_at=func.now(),
        replaced_runs=func.array_append(col(Instance.replaced_runs), col(DeadLetter.run_id)),
    )
    .where(
        one_of(col(DeadLetter.dead_letter_id), "dead_letter_ids"),
        col(Instance.instance_id) == col(DeadLetter.instance_id),
        col(Instance.status) == InstanceStatus.FAILED.value,
    )
)


@transition((InstanceStatus.FAILED,), (InstanceStatus.RUNNING,))
async def request_replay(connection: Connection, dead_letter_ids: Sequence[str]) -> None:
    """Set the instances of dead letters to running, and fence off their failed runs. Attempts count anew."""
    await _REQUEST_REPLAY.execute(connection, dead_letter_ids=list(dead_letter_ids))


_FORBIDDEN = unnested("forbidden", col(Instance.user_id), col(Instance.purpose))
_MARK_CANCELLED = statement(
    update(Instance)
    .values(reason=bindparam("reason", type_=Text()))
    .where(
        col(Instance.user_id) == _FORBIDDEN.c.user_id,
        or_(_FORBIDDEN.c.purpose.is_(None), col(Instance.purpose) == _FORBIDDEN.c.purpose),
        _NO_END,
    )
    .returning(col(Instance.workflow_id), col(Instance.instance_id), col(Instance.user_id))
)


async def cancel_withdrawn(connection: Connection, withdrawals: Collection[tuple[str, str]]) -> None:
    """Cancel the unfinished instances that need a consent withdrawn now, given as (user, purpose)."""
    await mark_cancelled(connection, withdrawals, CONSENT_WITHDRAWN)


async def cancel_of_closed(connection: Connection, user_ids: Collection[str]) -> None:
    """Cancel all unfinished instances of users whose accounts this transaction closes."""
    await mark_cancelled(connection, [(user_id, None) for user_id in user_ids], ACCOUNT_CLOSED)


@keeps_status
async def mark_cancelled(
    connection: Connection, forbidden: Collection[tuple[str, str | None]], reason: str
) -> None:
    """Cancel the unfinished instances of (user, purpose); with the purpose None, those of all purposes and none.

    The caller holds each person's bucket exclusively (:func:`store.consents.locks.exclude`), and for a closing
    also the person's row. So no instance continues after a withdrawal or a closing:

    - A start or a replay shares the bucket or the row, and then reads consent and account. Either it commits
      before this function runs, which then sees the instance. Or it reads after this transaction's commit, and
      is refused.
    - Temporal may not have started the instance yet. The outbox then finds no run and ends the row itself, which
      fences off a later run (ADR 0008). It looks for that run for a while.
    """
    if not forbidden:
        return
    rows = await _MARK_CANCELLED.fetch(
        connection,
        user_id=[user_id for user_id, _ in forbidden],
        purpose=[purpose for _, purpose in forbidden],
        reason=reason,
    )
    await outbox.write_cancellations(connection, [tuple(row) for row in rows], reason)


_HAS = col(Instance.problem) == bindparam("problem", type_=Text())
_MARK_PROBLEM = statement(
    update(Instance)
    .values(problem=bindparam("problem", type_=Text()), problem_since=func.now())
    .where(one_of(col(Instance.instance_id), "instance_ids"), _NO_END, _HAS.is_not(true()))
    .returning(col(Instance.workflow_id), col(Instance.instance_id))
)
_CLEAR_PROBLEM = statement(
    update(Instance)
    .values(problem=null(), problem_since=null())
    .where(_HAS, _NO_END, ~one_of(col(Instance.instance_id), "instance_ids"))
)


@keeps_status
async def mark_problem(
    connection: Connection, problem: ProblemKind, instance_ids: Sequence[str]
) -> list[tuple[str, str]]:
    """Give exactly these unfinished instances a problem, and take it from all others.

    Returns the (workflow, instance) pairs that didn't have it. An instance keeps the time at which it got it.
    """
    values: dict[str, Any] = {"problem": problem.value, "instance_ids": list(instance_ids)}
    await _CLEAR_PROBLEM.execute(connection, **values)
    return [tuple(row) for row in await _MARK_PROBLEM.fetch(connection, **values)]


_DELETE_UNSTARTED = statement(
    delete(Instance)
    .where(
        _THIS,
        col(Instance.run_id).is_(None),
        _NO_END,
    )
    .returning(col(Instance.workflow_id), col(Instance.user_id))
)


@transition((InstanceStatus.RUNNING,), (None,))
async def delete_unstarted(connection: Connection, instance_id: str) -> None:
    """Delete an instance that Temporal failed to start, with its window, its waits and its callback."""
    row = await _DELETE_UNSTARTED.fetchrow(connection, instance_id=instance_id)
    if row is not None:
        await triggers.close_window(connection, row["workflow_id"], row["user_id"], instance_id)
        await waits.drop(connection, instance_id)
        await callbacks.delete(connection, instance_id)


# SQL text: a CTE that writes seven tables.
_DELETE_ENDED = sql(
    """
    WITH expired AS MATERIALIZED (
        SELECT instance_id, workflow_id, user_id FROM instances
        WHERE instance_id = ANY(CAST(:instance_ids AS text[])) AND end_time < :ended_before
        ORDER BY instance_id FOR UPDATE SKIP LOCKED
    ), gone_steps AS (
        DELETE FROM steps WHERE instance_id IN (SELECT instance_id FROM expired) RETURNING 1
    ), gone_attempts AS (
        DELETE FROM attempts WHERE instance_id IN (SELECT instance_id FROM expired) RETURNING 1
    ), gone_waits AS (
        DELETE FROM event_waits WHERE instance_id IN (SELECT instance_id FROM expired) RETURNING 1
    ), gone_letters AS (
        DELETE FROM dead_letters WHERE instance_id IN (SELECT instance_id FROM expired) RETURNING 1
    ), gone_callbacks AS (
        DELETE FROM callbacks WHERE instance_id IN (SELECT instance_id FROM expired) RETURNING 1
    ), gone_windows AS (
        DELETE FROM trigger_windows
        WHERE (workflow_id, user_id, instance_id) IN (SELECT workflow_id, user_id, instance_id FROM expired)
          AND opened_at IS NULL
    ), gone AS (
        DELETE FROM instances WHERE instance_id IN (SELECT instance_id FROM expired) RETURNING 1
    )
    SELECT (SELECT count(*) FROM gone) AS instances, (SELECT count(*) FROM gone_steps) AS steps,
           (SELECT count(*) FROM gone_attempts) AS attempts, (SELECT count(*) FROM gone_waits) AS event_waits,
           (SELECT count(*) FROM gone_letters) AS dead_letters,
           (SELECT count(*) FROM gone_callbacks) AS callbacks
    """
)


@transition(ENDED, (None,))
async def delete_ended(
    connection: Connection, instance_ids: Sequence[str], ended_before: datetime
) -> Mapping[str, int]:
    """Delete the given instances that ended before a time, with all their rows; returns the count by table.

    A window in which `once_per` still counts stays, and is not counted.
    Skips instances that another transaction has locked.
    """
    row = await _DELETE_ENDED.fetchrow(connection, instance_ids=list(instance_ids), ended_before=ended_before)
    assert row is not None  # a row of counts
    return dict(row)
