"""Reads of workflow instances. :mod:`store.instances.states` lists all writes to their rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from asyncpg import Record
from sqlalchemy import Interval, and_, bindparam, func, or_, text, tuple_
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlmodel import col

from models.instances import Problem, StoredAttempt, StoredCallback, StoredInstance, StoredTrigger
from models.tables.execution import Attempt, Callback, Instance, Step
from models.tables.people import DataKey as StoredKey
from models.tables.projections import TemporalOutbox
from models.temporal.execution import LifecycleOutcome
from models.vocabulary import InstanceStatus, ProblemKind
from privacy.encryption import Cipher, DataKey, DecryptionError
from store.connection import Connection
from store.pages import readable_page
from store.statements import filtered, one_of, select, statement

UNSTARTED_LIMIT = 500
SCANNED_ROWS = 2000
"""Rows that one page of a scan reads, ended instances included."""

_STEPS = (
    select(
        func.array_agg(aggregate_order_by(func.row(col(Step.step), col(Step.result)), col(Step.position))),
    )
    .where(col(Step.instance_id) == col(Instance.instance_id))
    .scalar_subquery()
)
_ATTEMPTS = (
    select(
        func.array_agg(
            aggregate_order_by(
                func.row(
                    col(Attempt.step),
                    col(Attempt.attempt),
                    col(Attempt.started_at),
                    col(Attempt.ended_at),
                    col(Attempt.error_type),
                    col(Attempt.error_message),
                    col(Attempt.interrupted),
                    col(Attempt.next_attempt_at),
                ),
                col(Attempt.started_at),
                col(Attempt.attempt),
            )
        )
    )
    .where(col(Attempt.instance_id) == col(Instance.instance_id))
    .scalar_subquery()
)
_CALLBACK = (
    select(
        func.row(
            col(Callback.status), col(Callback.attempts), col(Callback.last_status), col(Callback.last_attempt_at)
        )
    )
    .where(col(Callback.instance_id) == col(Instance.instance_id))
    .scalar_subquery()
)
_STORED = (
    select(
        col(Instance.instance_id),
        col(Instance.workflow_id),
        col(Instance.user_id),
        col(Instance.status),
        col(Instance.current_step),
        col(Instance.run_id),
        col(Instance.max_attempts),
        col(Instance.parameters),
        col(Instance.variables),
        col(Instance.error),
        col(Instance.start_time),
        col(Instance.end_time),
        col(Instance.reason),
        col(Instance.bulk_id),
        col(Instance.replaced_runs),
        col(Instance.trigger_event_id),
        col(Instance.trigger_event_type),
        col(Instance.triggered_at),
        col(Instance.waits_until),
        col(Instance.problem),
        col(Instance.problem_since),
        col(StoredKey.wrapped),
        _STEPS.label("steps"),
        _ATTEMPTS.label("attempts"),
        _CALLBACK.label("callback"),
    )
    .select_from(Instance)
    .outerjoin(StoredKey, col(StoredKey.subject) == col(Instance.user_id))
)

_FIND = statement(_STORED.where(col(Instance.instance_id) == bindparam("instance_id")))


async def find(
    connection: Connection, cipher: Cipher, instance_id: str, *, damaged: bool = False
) -> StoredInstance | None:
    """One instance with its steps and attempts, in one statement.

    With ``damaged``, one that can't be decrypted comes without its personal data, like that of an erased person.
    Otherwise it raises :class:`privacy.encryption.DecryptionError`.
    """
    row = await _FIND.fetchrow(connection, instance_id=instance_id)
    if row is None:
        return None
    try:
        return _decrypted(cipher, row)
    except DecryptionError:
        if not damaged:
            raise
        return _opened(None, row)


_PAGE = filtered(
    _STORED.order_by(col(Instance.start_time).desc(), col(Instance.instance_id).desc()).limit(bindparam("limit")),
    workflow=col(Instance.workflow_id) == bindparam("workflow_id"),
    user=col(Instance.user_id) == bindparam("user_id"),
    key=col(Instance.key_digest) == bindparam("key_digest"),
    status=one_of(col(Instance.status), "statuses"),
    problem=col(Instance.problem) == bindparam("problem"),
    unserved=or_(
        col(Instance.problem) == bindparam("unserved"),
        and_(col(Instance.problem).is_(None), col(Instance.end_time).is_(None)),
    ),
    bulk=col(Instance.bulk_id) == bindparam("bulk_id"),
    before=tuple_(col(Instance.start_time), col(Instance.instance_id))
    < tuple_(bindparam("before_time"), bindparam("before_id")),
)


async def page(
    connection: Connection,
    cipher: Cipher,
    workflow_id: str | None,
    *,
    user_id: str | None,
    key_digest: bytes | None = None,
    statuses: Sequence[InstanceStatus] | None,
    problem: ProblemKind | None = None,
    unserved: bool = False,
    bulk_id: str | None = None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[StoredInstance]:
    """Instances of a workflow, of a user, or both, newest first, after a position in that order.

    With ``unserved``, no worker runs: then all instances without another problem have the problem `no_worker`.
    Damaged instances are left out.
    """

    async def read(place: tuple[datetime, str] | None, number: int) -> list[Record]:
        before_time, before_id = place or (None, None)
        return await _PAGE.fetch(
            connection,
            workflow_id=workflow_id,
            user_id=user_id,
            key_digest=key_digest,
            statuses=None if statuses is None else [status.value for status in statuses],
            problem=problem.value if problem and not unserved else None,
            unserved=problem.value if problem and unserved else None,
            bulk_id=bulk_id,
            before_time=before_time,
            before_id=before_id,
            limit=number,
        )

    return await readable_page(
        read,
        lambda row: _decrypted(cipher, row),
        lambda row: (row["start_time"], row["instance_id"]),
        after=before,
        limit=limit,
    )


def _decrypted(cipher: Cipher, row: Record) -> StoredInstance:
    return _opened(None if row["wrapped"] is None else cipher.unwrap(row["user_id"], row["wrapped"]), row)


def _opened(key: DataKey | None, row: Record) -> StoredInstance:
    """The instance, without its personal data if there is no key."""
    instance_id: str = row["instance_id"]

    def decrypted(column: str, value: bytes | None, *step: str) -> Any:
        return None if key is None else key.decrypt_json(column, value, instance_id, *step)

    return StoredInstance(
        instance_id=instance_id,
        workflow_id=row["workflow_id"],
        user_id=row["user_id"],
        status=InstanceStatus(row["status"]),
        current_step=row["current_step"],
        run_id=row["run_id"],
        max_attempts=row["max_attempts"],
        parameters=decrypted("instances.parameters", row["parameters"]) or {},
        variables=decrypted("instances.variables", row["variables"]) or {},
        results={step: decrypted("steps.result", result, step) for step, result in row["steps"] or ()},
        error=decrypted("instances.error", row["error"]),
        attempts=[_attempt(key, instance_id, *each) for each in row["attempts"] or ()],
        start_time=row["start_time"],
        end_time=row["end_time"],
        reason=row["reason"],
        bulk_id=row["bulk_id"],
        replaced_runs=row["replaced_runs"],
        callback=StoredCallback(*row["callback"]) if row["callback"] else None,
        trigger=(
            StoredTrigger(row["trigger_event_id"], row["trigger_event_type"], row["triggered_at"])
            if row["trigger_event_id"]
            else None
        ),
        waits_until={step: datetime.fromisoformat(each) for step, each in (row["waits_until"] or {}).items()},
        problem=Problem(ProblemKind(row["problem"]), row["problem_since"]) if row["problem"] else None,
    )


def _attempt(
    key: DataKey | None,
    instance_id: str,
    step: str,
    attempt: int,
    started_at: datetime,
    ended_at: datetime | None,
    error_type: str | None,
    message: bytes | None,
    interrupted: bool,
    next_attempt_at: datetime | None,
) -> StoredAttempt:
    text = None
    if key is not None and message is not None:
        text = key.decrypt("attempts.error_message", message, instance_id, step, attempt).decode()
    return StoredAttempt(step, attempt, started_at, ended_at, error_type, text, interrupted, next_attempt_at)


_OUTCOME = statement(
    select(col(Instance.status), col(Instance.reason)).where(
        col(Instance.instance_id) == bindparam("instance_id"), col(Instance.end_time).is_not(None)
    )
)


async def outcome(connection: Connection, instance_id: str) -> LifecycleOutcome | None:
    """The end of an instance; None if it has no end or no row."""
    row = await _OUTCOME.fetchrow(connection, instance_id=instance_id)
    return None if row is None else LifecycleOutcome(status=InstanceStatus(row["status"]), reason=row["reason"])


@dataclass(frozen=True)
class Unfinished:
    """An instance without an end."""

    instance_id: str
    workflow_id: str
    user_id: str
    current_step: str | None
    run_id: str | None
    reason: str | None = None
    """The reason of a cancellation under way."""
    replaced_runs: Sequence[str] = ()
    """Temporal runs that a replay has replaced."""


_UNFINISHED_COLUMNS = select(
    col(Instance.instance_id),
    col(Instance.workflow_id),
    col(Instance.user_id),
    col(Instance.current_step),
    col(Instance.run_id),
    col(Instance.reason),
    col(Instance.replaced_runs),
)
_UNFINISHED = statement(
    _UNFINISHED_COLUMNS.where(one_of(col(Instance.instance_id), "instance_ids"), col(Instance.end_time).is_(None))
)


async def unfinished(connection: Connection, instance_ids: Collection[str]) -> list[Unfinished]:
    """The given instances that have no end."""
    return [Unfinished(*row) for row in await _UNFINISHED.fetch(connection, instance_ids=list(instance_ids))]


_WILL_START = (
    select(col(TemporalOutbox.outbox_id))
    .where(
        col(TemporalOutbox.workflow_id) == col(Instance.workflow_id),
        text("kind = 'execute' AND NOT dead"),
        col(TemporalOutbox.instance_id) == col(Instance.instance_id),
    )
    .exists()
)
_UNSTARTED = statement(
    _UNFINISHED_COLUMNS.where(
        col(Instance.run_id).is_(None),
        col(Instance.end_time).is_(None),
        col(Instance.start_time) < func.now() - bindparam("older_than", type_=Interval()),
        or_(
            col(Instance.bulk_id).is_(None),
            and_(
                col(Instance.start_tried_at) < func.now() - bindparam("older_than", type_=Interval()),
                ~_WILL_START,
            ),
        ),
    )
    .order_by(col(Instance.start_time))
    .limit(UNSTARTED_LIMIT)
)


async def unstarted(connection: Connection, older_than: timedelta) -> list[Unfinished]:
    """Instances without a recorded run, oldest first. Temporal may have started them nevertheless.

    Those of a bulk only once the outbox has tried to start them, and will not try again.
    """
    return [Unfinished(*row) for row in await _UNSTARTED.fetch(connection, older_than=older_than)]


_SCAN = statement(
    _UNFINISHED_COLUMNS.add_columns(
        and_(col(Instance.end_time).is_(None), col(Instance.run_id).is_not(None)).label("running")
    )
    .where(col(Instance.instance_id) > bindparam("after"))
    .order_by(col(Instance.instance_id))
    .limit(SCANNED_ROWS)
)


async def scan_running(connection: Connection, after: str, limit: int) -> tuple[list[Unfinished], str]:
    """A page of the instances with a recorded run and no end, and the id for the next page.

    A page returns at most ``limit`` instances and reads at most :data:`SCANNED_ROWS` rows. So its cost doesn't
    grow with the number of ended instances. After the last page the id is ``""``, and the scan starts again.
    """
    rows = await _SCAN.fetch(connection, after=after)
    found = [Unfinished(*row[:7]) for row in rows if row["running"]][:limit]
    if len(found) == limit:
        return found, found[-1].instance_id
    return found, rows[-1]["instance_id"] if len(rows) == SCANNED_ROWS else ""
