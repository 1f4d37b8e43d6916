"""Attempts at steps and at starts, and the results that make a step's effect happen once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Interval, bindparam, func, update
from sqlmodel import col

from models.errors import UserErasedError
from models.tables.execution import Attempt, Instance
from models.temporal.execution import StepContext
from models.vocabulary import InstanceStatus
from privacy.encryption import Cipher, DataKey
from store.connection import Connection
from store.instances.dead_letters import MARK_REPLAYED, NO_STEP
from store.instances.states import FENCE, transition
from store.instances.transitions import ENTER_STEP
from store.statements import parameters, select, sql, statement

MAX_INTERRUPTIONS = 20
"""A step fails after this many interruptions, so that a step that kills its worker doesn't run forever."""


@dataclass(frozen=True)
class BegunAttempt:
    """A recorded attempt, or the step's result if it has one."""

    number: int
    last: bool
    """Whether the step fails if this attempt fails."""
    done: bool
    result: bytes | None
    known: bool
    """False if the run must stop: the instance has ended or was deleted, or a replay has replaced the run."""
    failures: int
    """The step's own failures since the start or the last replay, this attempt included if it fails."""
    paused: bool | None
    """None: the attempt is recorded. Otherwise nothing is: the caller must look for a due exit first, and must not
    begin the attempt if this is True."""


# SQL text: a CTE that writes three tables, so that a step begins in one round trip.
_BEGIN = sql(
    f"""
    WITH key AS (
        SELECT wrapped FROM data_keys WHERE subject = :user_id AND wrapped IS NOT NULL
    ), done AS (
        SELECT result FROM steps WHERE instance_id = :instance_id AND step = :step
    ), present AS (
        SELECT coalesce(replayed_at, '-infinity') AS since FROM instances
        WHERE instance_id = :instance_id AND {FENCE} AND EXISTS (SELECT FROM key)
    ), held AS (
        SELECT status = 'paused' AS paused FROM instances
        WHERE :holdable AND instance_id = :instance_id AND EXISTS (SELECT FROM present)
          AND NOT EXISTS (SELECT FROM done)
          AND (status = 'paused'
               OR EXISTS (SELECT FROM dead_letters WHERE instance_id = :instance_id AND status = 'replaying')
               OR EXISTS (SELECT FROM attempts WHERE instance_id = :instance_id AND step = :step))
    ), entered AS (
        {ENTER_STEP} AND NOT EXISTS (SELECT FROM done) AND EXISTS (SELECT FROM key)
          AND NOT EXISTS (SELECT FROM held)
        RETURNING replaced_runs
    ), past_the_error AS (
        {MARK_REPLAYED} '{NO_STEP}' AND EXISTS (SELECT FROM entered WHERE replaced_runs <> '{{}}')
    ), cut_short AS (
        UPDATE attempts SET interrupted = true, ended_at = now(), error_type = 'Interrupted'
        WHERE instance_id = :instance_id AND step = :step AND ended_at IS NULL AND EXISTS (SELECT FROM present)
          AND NOT EXISTS (SELECT FROM held)
        RETURNING attempt
    ), earlier AS (
        SELECT count(*) AS total,
               count(*) FILTER (WHERE started_at >= since) AS counted,
               count(*) FILTER (WHERE started_at >= since AND (interrupted OR ended_at IS NULL)) AS interruptions
        FROM attempts CROSS JOIN (SELECT coalesce((SELECT since FROM present), '-infinity') AS since) AS present
        WHERE instance_id = :instance_id AND step = :step
    ), begun AS (
        INSERT INTO attempts (instance_id, step, attempt)
        SELECT :instance_id, :step, total + 1 FROM earlier
        WHERE NOT EXISTS (SELECT FROM done) AND EXISTS (SELECT FROM present) AND NOT EXISTS (SELECT FROM held)
        ON CONFLICT DO NOTHING
        RETURNING attempt
    )
    SELECT total + 1 AS number,
           counted - interruptions + 1 >= :max_attempts OR interruptions >= :max_interruptions AS last,
           counted - interruptions + 1 AS failures,
           EXISTS (SELECT FROM done) AS done,
           (SELECT result FROM done) AS result,
           EXISTS (SELECT FROM present) AS known,
           (SELECT paused FROM held) AS paused,
           (SELECT wrapped FROM key) AS wrapped
    FROM earlier
    """
)


async def begin_attempt(
    connection: Connection, cipher: Cipher, context: StepContext, run_id: str, *, looked: bool = False
) -> tuple[BegunAttempt, DataKey]:
    """Record the begin of an attempt, unless the step is done; also returns the person's data key.

    On a replay, at a retry and during a pause it records nothing, since an exit may have become due. The caller
    looks for one, and calls again with ``looked``.

    One statement, so it needs no transaction. If the key has been destroyed, it raises :class:`UserErasedError`
    and writes nothing.

    An earlier attempt without an end belongs to a killed worker. It becomes interrupted and doesn't count towards
    ``max_attempts``. Attempts before a replay don't count either. A replayed journey that enters a new step has
    passed the error of its own code. So that error's dead letter becomes ``replayed``.
    """
    row = await _BEGIN.fetchrow(
        connection,
        instance_id=context.instance_id,
        step=context.step,
        run_id=run_id,
        waits_until=context.waits_until or None,
        max_attempts=context.max_attempts,
        max_interruptions=MAX_INTERRUPTIONS,
        holdable=context.holdable and not looked,
        user_id=context.user_id,
    )
    assert row is not None  # an aggregate always gives a row
    if row["wrapped"] is None:
        raise UserErasedError
    begun = BegunAttempt(
        row["number"], row["last"], row["done"], row["result"], row["known"], row["failures"], row["paused"]
    )
    return begun, cipher.unwrap(context.user_id, row["wrapped"])


# SQL text: a CTE that writes three tables, so that a step completes in one round trip.
_COMPLETE = sql(
    f"""
    WITH ended AS (
        UPDATE attempts SET ended_at = now(), interrupted = false, error_type = NULL
        WHERE instance_id = :instance_id AND step = :step AND attempt = :attempt
    ), replayed AS (
        {MARK_REPLAYED} :step
    )
    INSERT INTO steps (instance_id, step, position, result)
    VALUES (:instance_id, :step, :position, :result) ON CONFLICT DO NOTHING
    """
)


async def complete_attempt(
    connection: Connection, context: StepContext, attempt: int, key: DataKey, result: Any
) -> None:
    """Record the attempt's end and the step's result, unless it has one. Its dead letter becomes ``replayed``."""
    await _COMPLETE.execute(
        connection,
        instance_id=context.instance_id,
        step=context.step,
        attempt=attempt,
        result=key.encrypt_json("steps.result", result, context.instance_id, context.step),
        position=context.position,
    )


_FAIL = statement(
    update(Attempt)
    .values(
        ended_at=func.now(),
        next_attempt_at=func.now() + bindparam("retry_in", type_=Interval()),
        **parameters("error_type", "error_message", "interrupted"),
    )
    .where(
        col(Attempt.instance_id) == bindparam("instance_id"),
        col(Attempt.step) == bindparam("step"),
        col(Attempt.attempt) == bindparam("attempt"),
    )
)


async def fail_attempt(
    connection: Connection,
    context: StepContext,
    attempt: int,
    key: DataKey,
    *,
    error_type: str,
    error_message: str,
    interrupted: bool = False,
    retry_in: timedelta | None = None,
) -> None:
    """Record how an attempt failed, and the time to its retry if there will be one."""
    await _FAIL.execute(
        connection,
        instance_id=context.instance_id,
        step=context.step,
        attempt=attempt,
        error_type=error_type,
        error_message=key.encrypt(
            "attempts.error_message", error_message.encode(), context.instance_id, context.step, attempt
        ),
        interrupted=interrupted,
        retry_in=retry_in,
    )


_BACKS_OFF = statement(
    select(col(Attempt.next_attempt_at) > func.now() + bindparam("at_least", type_=Interval()))
    .where(col(Attempt.instance_id) == bindparam("instance_id"), col(Attempt.step) == bindparam("step"))
    .order_by(col(Attempt.attempt).desc())
    .limit(1)
)


async def backs_off(connection: Connection, instance_id: str, step: str, at_least: timedelta) -> bool:
    """Whether a step waits for its next attempt, for at least that time."""
    found = await _BACKS_OFF.fetchval(connection, instance_id=instance_id, step=step, at_least=at_least)
    return bool(found)


@dataclass(frozen=True)
class BegunStart:
    """The stored values that the start of a bulk's instance needs. ``parameters`` are encrypted."""

    started_by: str
    max_attempts: int
    parameters: bytes | None


_BEGIN_START = statement(
    update(Instance)
    .values(start_tried_at=func.now())
    # With a reason it is being cancelled.
    .where(
        col(Instance.instance_id) == bindparam("instance_id"),
        col(Instance.run_id).is_(None),
        col(Instance.reason).is_(None),
        col(Instance.end_time).is_(None),
    )
    .returning(col(Instance.started_by), col(Instance.max_attempts), col(Instance.parameters))
)


@transition((InstanceStatus.RUNNING,), (InstanceStatus.RUNNING,))
async def begin_start(connection: Connection, instance_id: str) -> BegunStart | None:
    """Take the turn of a bulk's instance. Commit it before the start.

    None if it has ended or is to end, or a run of it has recorded something. A cancellation that ends the row
    afterwards looks for the run for a while (:func:`store.instances.terminal.end_unstarted`).
    """
    row = await _BEGIN_START.fetchrow(connection, instance_id=instance_id)
    return None if row is None else BegunStart(*row)
