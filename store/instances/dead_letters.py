"""Dead letters: failed instances, which an operator replays or discards.

Each failed step of an instance has one dead letter, which opens again if the step fails again. At most one dead
letter of an instance is open, since only the instance's end opens one.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncpg import Record
from sqlalchemy import Text, bindparam, func, or_, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlmodel import col

from models.errors import AlreadyReplayingError, AlreadySettledError, DeadLetterNotFoundError
from models.tables.execution import DeadLetter
from models.tables.people import DataKey as StoredKey
from models.temporal.ending import HISTORY_LOST
from models.temporal.execution import StepFailure
from models.vocabulary import DeadLetterStatus
from privacy.encryption import Cipher, DataKey, DecryptionError
from store.connection import Connection
from store.instances import triggers, waits
from store.instances.instances import Unfinished
from store.statements import filtered, one_of, parameters, select, sql, statement

logger = logging.getLogger("perennial.store")

ERROR = "dead_letters.error"
NO_STEP = ""
"""The failed step if the journey's own code raised. Not NULL, since a unique index treats NULLs as distinct."""


@dataclass(frozen=True)
class StoredDeadLetter:
    """``error`` is None without the person's data key."""

    dead_letter_id: str
    workflow_id: str
    instance_id: str
    user_id: str
    failed_step: str | None
    run_id: str
    error_type: str
    error: dict[str, Any] | None
    attempts: int
    status: DeadLetterStatus
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Filter:
    """Conditions on dead letters, joined with AND."""

    status: DeadLetterStatus | None = None
    workflow_id: str | None = None
    instance_id: str | None = None
    user_id: str | None = None
    failed_step: str | None = None
    error_type: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


_NEW = upsert(DeadLetter).values(
    attempts=1,
    status=DeadLetterStatus.OPEN.value,
    **parameters(
        "dead_letter_id", "workflow_id", "instance_id", "user_id", "failed_step", "run_id", "error_type", "error"
    ),
)
_RECORD = statement(
    _NEW.on_conflict_do_update(
        index_elements=[col(DeadLetter.instance_id), col(DeadLetter.failed_step)],
        set_={
            "attempts": col(DeadLetter.attempts) + 1,  # failed runs, not attempts at the step
            "status": DeadLetterStatus.OPEN.value,
            "run_id": _NEW.excluded.run_id,
            "error_type": _NEW.excluded.error_type,
            "error": _NEW.excluded.error,
            "updated_at": func.now(),
        },
    )
)


async def record(
    connection: Connection, key: DataKey, instance: Unfinished, run_id: str, failure: StepFailure
) -> None:
    """Open the dead letter of a failure, in the transaction that ends the instance."""
    await _RECORD.execute(
        connection,
        dead_letter_id=uuid.uuid4().hex,
        workflow_id=instance.workflow_id,
        instance_id=instance.instance_id,
        user_id=instance.user_id,
        failed_step=failure.failed_step or NO_STEP,
        run_id=run_id,
        error_type=failure.error_type,
        error=key.encrypt_json(ERROR, failure.model_dump(), instance.instance_id, failure.failed_step or NO_STEP),
    )


_SETTLE = statement(
    update(DeadLetter)
    .values(status=bindparam("status"), updated_at=func.now())
    .where(
        col(DeadLetter.instance_id) == bindparam("instance_id"),
        col(DeadLetter.status) == DeadLetterStatus.REPLAYING.value,
        or_(
            bindparam("except_step", type_=Text()).is_(None),
            col(DeadLetter.failed_step) != bindparam("except_step", type_=Text()),
        ),
    )
)


async def settle(
    connection: Connection, instance_id: str, status: DeadLetterStatus, *, except_step: str | None
) -> None:
    """Settle the replaying dead letter of an instance that has ended, unless its step failed again."""
    await _SETTLE.execute(connection, instance_id=instance_id, status=status.value, except_step=except_step)


MARK_REPLAYED = """
    UPDATE dead_letters SET status = 'replayed', updated_at = now()
    WHERE instance_id = :instance_id AND status = 'replaying' AND failed_step =
"""
"""Append the failed step. The statements that begin and complete an attempt contain this text too."""

# SQL text: a part of CTEs that write several tables.
_MARK_REPLAYED = sql(f"{MARK_REPLAYED} :failed_step")


async def mark_replayed(connection: Connection, instance_id: str, failed_step: str) -> None:
    """Settle a dead letter after its replay has passed the failure."""
    await _MARK_REPLAYED.execute(connection, instance_id=instance_id, failed_step=failed_step)


_STORED = select(
    col(DeadLetter.dead_letter_id),
    col(DeadLetter.workflow_id),
    col(DeadLetter.instance_id),
    col(DeadLetter.user_id),
    col(DeadLetter.failed_step),
    col(DeadLetter.run_id),
    col(DeadLetter.error_type),
    col(DeadLetter.error),
    col(DeadLetter.attempts),
    col(DeadLetter.status),
    col(DeadLetter.created_at),
    col(DeadLetter.updated_at),
    col(StoredKey.wrapped),
).outerjoin(StoredKey, col(StoredKey.subject) == col(DeadLetter.user_id))
_CONDITIONS = {
    "status": col(DeadLetter.status) == bindparam("status"),
    "workflow": col(DeadLetter.workflow_id) == bindparam("workflow_id"),
    "instance": col(DeadLetter.instance_id) == bindparam("instance_id"),
    "user": col(DeadLetter.user_id) == bindparam("user_id"),
    "step": col(DeadLetter.failed_step) == bindparam("failed_step"),
    "error": col(DeadLetter.error_type) == bindparam("error_type"),
    "after": col(DeadLetter.created_at) >= bindparam("created_after"),
    "until": col(DeadLetter.created_at) < bindparam("created_before"),
}

_FIND = statement(_STORED.where(col(DeadLetter.dead_letter_id) == bindparam("dead_letter_id")))


async def find(connection: Connection, cipher: Cipher, dead_letter_id: str) -> StoredDeadLetter:
    """Raises :class:`DeadLetterNotFoundError`, and :class:`DecryptionError` for a damaged error."""
    row = await _FIND.fetchrow(connection, dead_letter_id=dead_letter_id)
    if row is None:
        raise DeadLetterNotFoundError
    return _decrypted(cipher, row)


_PAGE = filtered(
    _STORED.order_by(col(DeadLetter.created_at).desc(), col(DeadLetter.dead_letter_id).desc()).limit(
        bindparam("limit")
    ),
    before=tuple_(col(DeadLetter.created_at), col(DeadLetter.dead_letter_id))
    < tuple_(bindparam("before_time"), bindparam("before_id")),
    **_CONDITIONS,
)


async def page(
    connection: Connection, cipher: Cipher, wanted: Filter, *, before: tuple[datetime, str] | None, limit: int
) -> list[StoredDeadLetter]:
    """Dead letters, newest first, after a position in that order."""
    rows = await _PAGE.fetch(
        connection,
        before_time=before[0] if before else None,
        before_id=before[1] if before else None,
        limit=limit,
        **vars(wanted),
    )
    return [_listed(cipher, row) for row in rows]


_OPEN = filtered(
    _STORED.where(col(DeadLetter.status) == DeadLetterStatus.OPEN.value)
    .order_by(col(DeadLetter.created_at), col(DeadLetter.dead_letter_id))
    .limit(bindparam("limit")),
    **_CONDITIONS,
)


async def find_open(connection: Connection, cipher: Cipher, wanted: Filter, limit: int) -> list[StoredDeadLetter]:
    """Open dead letters, oldest first."""
    return [_listed(cipher, row) for row in await _OPEN.fetch(connection, limit=limit, **vars(wanted))]


_MOVE = update(DeadLetter).values(updated_at=func.now())
_DISCARD = statement(
    _MOVE.values(status=DeadLetterStatus.DISCARDED.value)
    .where(
        col(DeadLetter.dead_letter_id) == bindparam("dead_letter_id"),
        col(DeadLetter.status) == DeadLetterStatus.OPEN.value,
    )
    .returning(col(DeadLetter.instance_id))
)


async def discard(connection: Connection, cipher: Cipher, dead_letter_id: str) -> StoredDeadLetter:
    """Settle an open dead letter without a replay, and drop its instance's waits.

    An instance whose history was lost also gives its window back, so that the workflow may start again.

    Raises :class:`DeadLetterNotFoundError` and the errors of :func:`not_open`.
    """
    instance_id = await _DISCARD.fetchval(connection, dead_letter_id=dead_letter_id)
    row = await _FIND.fetchrow(connection, dead_letter_id=dead_letter_id)
    if row is None:
        raise DeadLetterNotFoundError
    dead_letter = _listed(cipher, row)
    if instance_id is None:
        raise not_open(dead_letter.status)
    await waits.drop(connection, instance_id)
    if dead_letter.error_type == HISTORY_LOST:
        await triggers.close_window(connection, dead_letter.workflow_id, dead_letter.user_id, instance_id)
    return dead_letter


def not_open(status: DeadLetterStatus) -> AlreadyReplayingError | AlreadySettledError:
    """The error for a dead letter that isn't open, and so can't be replayed or discarded."""
    return AlreadyReplayingError() if status is DeadLetterStatus.REPLAYING else AlreadySettledError()


_BEGIN_REPLAY = statement(
    _MOVE.values(status=DeadLetterStatus.REPLAYING.value).where(
        one_of(col(DeadLetter.dead_letter_id), "dead_letter_ids")
    )
)


async def begin_replay(connection: Connection, dead_letter_ids: list[str]) -> None:
    """The caller has locked the rows and checked that they are open."""
    await _BEGIN_REPLAY.execute(connection, dead_letter_ids=dead_letter_ids)


_REOPEN = statement(
    _MOVE.values(status=DeadLetterStatus.OPEN.value).where(
        col(DeadLetter.dead_letter_id) == bindparam("dead_letter_id"),
        col(DeadLetter.status) == DeadLetterStatus.REPLAYING.value,
        col(DeadLetter.run_id) == bindparam("run_id"),
    )
)


async def reopen(connection: Connection, dead_letter: StoredDeadLetter) -> bool:
    """Open a dead letter again, as its replay is impossible; False if it no longer replays that run."""
    found = await _REOPEN.execute(connection, dead_letter_id=dead_letter.dead_letter_id, run_id=dead_letter.run_id)
    return found == 1


def _listed(cipher: Cipher, row: Record) -> StoredDeadLetter:
    """The dead letter. A damaged error is None, so that the letter can still be listed and discarded."""
    try:
        return _decrypted(cipher, row)
    except DecryptionError as error:
        logger.error("the error of a dead letter is hidden: %s", error, extra={"user_id": row["user_id"]})
        return _stored(row, None)


def _decrypted(cipher: Cipher, row: Record) -> StoredDeadLetter:
    error = None
    if row["wrapped"] is not None:
        key = cipher.unwrap(row["user_id"], row["wrapped"])
        error = key.decrypt_json(ERROR, row["error"], row["instance_id"], row["failed_step"])
    return _stored(row, error)


def _stored(row: Record, error: Any) -> StoredDeadLetter:
    values = {name: value for name, value in row.items() if name != "wrapped"}
    return StoredDeadLetter(
        **{
            **values,
            "failed_step": row["failed_step"] or None,
            "error": error,
            "status": DeadLetterStatus(row["status"]),
        }
    )
