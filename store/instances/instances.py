"""The stored context of workflow instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from asyncpg import Record

from models.errors import UserErasedError, UserUnknownError
from models.temporal.execution import LifecycleOutcome, Progress
from models.vocabulary import InstanceStatus, Purpose
from privacy.encryption import Cipher, DataKey
from store.connection import Connection


@dataclass(frozen=True)
class StoredAttempt:
    """One attempt at a step."""

    step: str
    attempt: int
    started_at: datetime
    ended_at: datetime | None
    error_type: str | None
    error_message: str | None
    interrupted: bool


@dataclass(frozen=True)
class StoredCallback:
    """What became of an instance's callback."""

    status: str
    attempts: int
    last_status: int | None
    last_attempt_at: datetime | None


@dataclass(frozen=True)
class StoredInstance:
    """An instance as Postgres knows it. Without the person's key what was encrypted is empty."""

    instance_id: str
    workflow_id: str
    user_id: str
    status: InstanceStatus
    current_step: str | None
    run_id: str | None
    max_attempts: int
    parameters: dict[str, Any]
    variables: dict[str, Any]
    results: dict[str, Any]
    error: dict[str, Any] | None
    attempts: Sequence[StoredAttempt]
    start_time: datetime
    end_time: datetime | None
    reason: str | None = None
    """Why it ended, where it was told."""
    replaced_runs: Sequence[str] = ()
    """Temporal's runs that count no more, since a replay carries the instance on."""
    callback: StoredCallback | None = None


@dataclass(frozen=True)
class NewInstance:
    """An instance that is about to be started."""

    instance_id: str
    workflow_id: str
    user_id: str
    max_attempts: int
    parameters: dict[str, Any]
    started_by: str
    purpose: Purpose | None = None
    """The consent that it rests on."""


@dataclass(frozen=True)
class Eligibility:
    """What decides whether a workflow may run for a user."""

    key: DataKey
    enabled: bool
    max_attempts: int | None
    """As an admin has set it for the workflow."""
    consented: bool


async def eligibility(
    connection: Connection, cipher: Cipher, workflow_id: str, user_id: str, purpose: Purpose | None
) -> Eligibility:
    """Look up, in one statement, what an execute needs to know.

    Raises :class:`UserErasedError` where the person is gone and :class:`UserUnknownError` where there never was one.
    """
    row = await connection.fetchrow(
        """
        SELECT u.user_id, k.subject, k.wrapped, w.max_attempts, coalesce(w.enabled, true) AS enabled,
               $3::text IS NULL OR coalesce(c.granted, false) AS consented
        FROM (SELECT $1::text AS user_id) asked
        LEFT JOIN users u USING (user_id)
        LEFT JOIN data_keys k ON k.subject = asked.user_id
        LEFT JOIN workflow_settings w ON w.workflow_id = $2
        LEFT JOIN consents c ON c.user_id = asked.user_id AND c.purpose = $3
        """,
        user_id,
        workflow_id,
        purpose.value if purpose else None,
    )
    assert row is not None  # joined from a row of constants
    if row["subject"] is not None and row["wrapped"] is None:
        raise UserErasedError
    if row["user_id"] is None:
        raise UserUnknownError
    return Eligibility(
        key=cipher.unwrap(user_id, row["wrapped"]),
        enabled=row["enabled"],
        max_attempts=row["max_attempts"],
        consented=row["consented"],
    )


@dataclass(frozen=True)
class Placed:
    """An instance's row, new or found."""

    start_time: datetime
    begun: bool
    """Whether it has been seen running, or has ended: then it isn't to be started again."""


async def insert(connection: Connection, key: DataKey, new: NewInstance) -> Placed:
    """Store an instance before it starts. One that is there already stays as it is, unless its process died before
    Temporal was told and it was given up: then it begins now."""
    row = await connection.fetchrow(
        """
        WITH inserted AS (
            INSERT INTO instances
                (instance_id, workflow_id, user_id, status, max_attempts, parameters, started_by, purpose)
            VALUES ($1, $2, $3, 'running', $4, $5, $6, $7)
            ON CONFLICT (instance_id) DO UPDATE
            SET status = 'running', end_time = NULL, error = NULL, reason = NULL, start_time = now()
            WHERE instances.reason = 'not_started' AND instances.run_id IS NULL
            RETURNING start_time
        )
        SELECT start_time, false AS begun FROM inserted
        UNION ALL
        SELECT start_time, run_id IS NOT NULL OR end_time IS NOT NULL FROM instances WHERE instance_id = $1
        """,
        new.instance_id,
        new.workflow_id,
        new.user_id,
        new.max_attempts,
        key.encrypt_json("instances.parameters", new.parameters),
        new.started_by,
        new.purpose.value if new.purpose else None,
    )
    assert row is not None  # one of the two
    return Placed(row["start_time"], row["begun"])


def begun(new: NewInstance, start_time: datetime, run_id: str) -> StoredInstance:
    """An instance as it stands right after its start."""
    return StoredInstance(
        instance_id=new.instance_id,
        workflow_id=new.workflow_id,
        user_id=new.user_id,
        status=InstanceStatus.RUNNING,
        current_step=None,
        run_id=run_id,
        max_attempts=new.max_attempts,
        parameters=new.parameters,
        variables={},
        results={},
        error=None,
        attempts=(),
        start_time=start_time,
        end_time=None,
    )


async def delete_unstarted(connection: Connection, instance_id: str) -> None:
    """Take back an instance that Temporal could not be told of, with its waits and its callback."""
    await connection.execute(
        """WITH gone AS (DELETE FROM instances WHERE instance_id = $1 AND run_id IS NULL AND end_time IS NULL
                         RETURNING instance_id),
                untold AS (DELETE FROM callbacks WHERE instance_id IN (SELECT * FROM gone))
           DELETE FROM event_waits WHERE instance_id IN (SELECT * FROM gone)""",
        instance_id,
    )


async def end_unstarted(connection: Connection, instance_id: str, start_within: timedelta) -> bool | None:
    """End an instance that is to be cancelled and that Temporal has not been seen to run, since its start or its
    replay is on the way; whatever comes of that is fenced off. Says whether it may still come; None where it is
    no such instance.
    """
    young: bool | None = await connection.fetchval(
        """
        UPDATE instances SET status = 'cancelled', end_time = coalesce(end_time, now())
        WHERE instance_id = $1 AND (run_id IS NULL OR run_id = ANY(replaced_runs))
          AND (end_time IS NULL OR status = 'cancelled')
        RETURNING coalesce(replayed_at, start_time) > now() - $2::interval
        """,
        instance_id,
        start_within,
    )
    return young


async def write_progress(connection: Connection, key: DataKey, progress: Progress, run_id: str) -> bool:
    """Write where an instance stands, its end where it has one, and the results of its waits.

    An end stays: what a straggler writes after it is dropped, and so is what a run writes that a replay has
    replaced. Says whether it was taken; so of an end that is written twice only the first is. A replayed journey
    that writes something else than its end has got past its bug, and the dead letter of that is settled.
    """
    taken = await connection.fetchval(
        """
        WITH taken AS (
            UPDATE instances
            SET status = $2, current_step = $3, run_id = $4, variables = coalesce($5, variables), error = $6,
                end_time = CASE WHEN $7 THEN now() END,
                reason = CASE WHEN $2 = 'cancelled' THEN coalesce(reason, $8) WHEN $7 THEN $8 ELSE reason END
            WHERE instance_id = $1 AND end_time IS NULL AND $4 <> ALL(replaced_runs)
            RETURNING replaced_runs
        ), mended AS (
            UPDATE dead_letters SET status = 'replayed', updated_at = now()
            WHERE NOT $7 AND EXISTS (SELECT FROM taken WHERE replaced_runs <> '{}')
              AND instance_id = $1 AND failed_step = '' AND status = 'replaying'
        )
        SELECT true FROM taken
        """,
        progress.instance_id,
        progress.status.value,
        progress.current_step,
        run_id,
        key.encrypt_json("instances.variables", progress.variables),
        key.encrypt_json("instances.error", progress.error.model_dump() if progress.error else None),
        progress.status.finished,
        progress.reason,
    )
    if taken and progress.waits:
        await _write_waits(connection, key, progress)
    return bool(taken)


async def is_carried_by(connection: Connection, instance_id: str, run_id: str) -> bool:
    """Whether an instance is there, ended or not, and a run of it wasn't replaced by a replay."""
    found = await connection.fetchval(
        "SELECT $2 <> ALL(replaced_runs) FROM instances WHERE instance_id = $1", instance_id, run_id
    )
    return bool(found)


async def _write_waits(connection: Connection, key: DataKey, progress: Progress) -> None:
    waits = progress.waits.values()
    await connection.execute(
        """
        INSERT INTO steps (instance_id, step, position, result)
        SELECT $1, * FROM unnest($2::text[], $3::smallint[], $4::bytea[])
        ON CONFLICT DO NOTHING
        """,
        progress.instance_id,
        list(progress.waits),
        [wait.position for wait in waits],
        [key.encrypt_json("steps.result", wait.model_dump(exclude={"position"})) for wait in waits],
    )


async def end_of(connection: Connection, instance_id: str) -> LifecycleOutcome | None:
    """How an instance has ended; None where it runs, or isn't there."""
    row = await connection.fetchrow(
        "SELECT status, reason FROM instances WHERE instance_id = $1 AND end_time IS NOT NULL", instance_id
    )
    return None if row is None else LifecycleOutcome(status=InstanceStatus(row["status"]), reason=row["reason"])


_CONTEXT = """
    SELECT i.*, k.wrapped,
           (SELECT array_agg((s.step, s.result) ORDER BY s.position)
            FROM steps s WHERE s.instance_id = i.instance_id) AS steps,
           (SELECT array_agg((a.step, a.attempt, a.started_at, a.ended_at, a.error_type, a.error_message,
                              a.interrupted)
                             ORDER BY a.started_at, a.attempt)
            FROM attempts a WHERE a.instance_id = i.instance_id) AS attempts,
           (SELECT (c.status, c.attempts, c.last_status, c.last_attempt_at)
            FROM callbacks c WHERE c.instance_id = i.instance_id) AS callback
    FROM instances i LEFT JOIN data_keys k ON k.subject = i.user_id
"""


async def find(
    connection: Connection, cipher: Cipher, workflow_id: str, instance_id: str
) -> StoredInstance | None:
    """One instance of a workflow with its steps and attempts, in one statement."""
    found = await find_any(connection, cipher, instance_id)
    return found if found is not None and found.workflow_id == workflow_id else None


async def find_any(connection: Connection, cipher: Cipher, instance_id: str) -> StoredInstance | None:
    """One instance of whatever workflow."""
    row = await connection.fetchrow(_CONTEXT + "WHERE i.instance_id = $1", instance_id)
    return None if row is None else _open(cipher, row)


async def page(
    connection: Connection,
    cipher: Cipher,
    workflow_id: str | None,
    *,
    user_id: str | None,
    statuses: Sequence[InstanceStatus] | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[StoredInstance]:
    """Instances of a workflow, of a user, or both, newest first, after a position in that order."""
    rows = await connection.fetch(
        _CONTEXT
        + """
        WHERE ($1::text IS NULL OR i.workflow_id = $1)
          AND ($2::text IS NULL OR i.user_id = $2)
          AND ($3::text[] IS NULL OR i.status = ANY($3))
          AND ($4::timestamptz IS NULL OR (i.start_time, i.instance_id) < ($4, $5))
        ORDER BY i.start_time DESC, i.instance_id DESC LIMIT $6
        """,
        workflow_id,
        user_id,
        None if statuses is None else [status.value for status in statuses],
        before[0] if before else None,
        before[1] if before else None,
        limit,
    )
    return [_open(cipher, row) for row in rows]


def _open(cipher: Cipher, row: Record) -> StoredInstance:
    key = None if row["wrapped"] is None else cipher.unwrap(row["user_id"], row["wrapped"])

    def opened(place: str, encrypted: bytes | None) -> Any:
        return None if key is None else key.decrypt_json(place, encrypted)

    return StoredInstance(
        instance_id=row["instance_id"],
        workflow_id=row["workflow_id"],
        user_id=row["user_id"],
        status=InstanceStatus(row["status"]),
        current_step=row["current_step"],
        run_id=row["run_id"],
        max_attempts=row["max_attempts"],
        parameters=opened("instances.parameters", row["parameters"]) or {},
        variables=opened("instances.variables", row["variables"]) or {},
        results={step: opened("steps.result", result) for step, result in row["steps"] or ()},
        error=opened("instances.error", row["error"]),
        attempts=[
            StoredAttempt(step, number, begun, ended, kind, _text(key, message), interrupted)
            for step, number, begun, ended, kind, message, interrupted in row["attempts"] or ()
        ],
        start_time=row["start_time"],
        end_time=row["end_time"],
        reason=row["reason"],
        replaced_runs=row["replaced_runs"],
        callback=StoredCallback(*row["callback"]) if row["callback"] else None,
    )


def _text(key: DataKey | None, encrypted: bytes | None) -> str | None:
    if key is None or encrypted is None:
        return None
    return key.decrypt("attempts.error_message", encrypted).decode()
