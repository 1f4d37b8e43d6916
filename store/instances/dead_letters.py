"""Dead letters: what has failed for good, kept until somebody replays or discards it.

A step of an instance has one letter for ever: failing again opens it anew, with one more attempt. At most one of
an instance's letters is open, since it takes an instance that has failed to leave one.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from asyncpg import Record

from models.errors import AlreadyReplayingError, AlreadySettledError, DeadLetterNotFoundError
from models.temporal.execution import StepFailure
from models.vocabulary import DeadLetterStatus, InstanceStatus
from privacy.encryption import Cipher, DataKey
from store.connection import Connection
from store.instances import waits

PLACE = "dead_letters.error"
NO_STEP = ""
"""Stands for the step where the journey itself has a bug; Postgres' unique indexes don't compare NULLs."""


@dataclass(frozen=True)
class StoredDeadLetter:
    """A dead letter. Without the person's key ``error`` is None."""

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
    """Which dead letters are meant: those for which everything that is given holds."""

    status: DeadLetterStatus | None = None
    workflow_id: str | None = None
    instance_id: str | None = None
    user_id: str | None = None
    failed_step: str | None = None
    error_type: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None

    @property
    def values(self) -> list[Any]:
        """As the parameters ``$1`` to ``$8`` of :data:`MATCHES`."""
        return [getattr(self, field.name) for field in fields(self)]


MATCHES = """
    ($1::text IS NULL OR d.status = $1) AND ($2::text IS NULL OR d.workflow_id = $2)
    AND ($3::text IS NULL OR d.instance_id = $3) AND ($4::text IS NULL OR d.user_id = $4)
    AND ($5::text IS NULL OR d.failed_step = $5) AND ($6::text IS NULL OR d.error_type = $6)
    AND ($7::timestamptz IS NULL OR d.created_at >= $7) AND ($8::timestamptz IS NULL OR d.created_at < $8)
"""


async def leave(
    connection: Connection,
    key: DataKey,
    workflow_id: str,
    instance_id: str,
    user_id: str,
    run_id: str,
    failure: StepFailure,
) -> None:
    """Leave a dead letter, in the transaction that ends the instance as failed."""
    await connection.execute(
        """
        INSERT INTO dead_letters AS d (dead_letter_id, workflow_id, instance_id, user_id, failed_step, run_id,
                                       error_type, error, attempts, status)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, 'open')
        ON CONFLICT (instance_id, failed_step) DO UPDATE
        SET attempts = d.attempts + 1, status = 'open', run_id = excluded.run_id,
            error_type = excluded.error_type, error = excluded.error, updated_at = now()
        """,
        uuid.uuid4().hex,
        workflow_id,
        instance_id,
        user_id,
        failure.failed_step or NO_STEP,
        run_id,
        failure.error_type,
        key.encrypt_json(PLACE, failure.model_dump()),
    )


async def settle_ended(
    connection: Connection, instance_id: str, status: InstanceStatus, failed_step: str | None
) -> None:
    """Settle the letter whose replay has brought an instance to an end, unless it is the one that opens again.

    An instance that then failed elsewhere has a letter of its own for that; one that was cancelled is not to be
    carried on.
    """
    await connection.execute(
        """UPDATE dead_letters SET status = $2, updated_at = now()
            WHERE instance_id = $1 AND status = 'replaying' AND ($3::text IS NULL OR failed_step <> $3)""",
        instance_id,
        (DeadLetterStatus.DISCARDED if status is InstanceStatus.CANCELLED else DeadLetterStatus.REPLAYED).value,
        (failed_step or NO_STEP) if status is InstanceStatus.FAILED else None,
    )


_LETTER = "SELECT d.*, k.wrapped FROM dead_letters d LEFT JOIN data_keys k ON k.subject = d.user_id"


async def find(connection: Connection, cipher: Cipher, dead_letter_id: str) -> StoredDeadLetter:
    """One dead letter; raises :class:`DeadLetterNotFoundError`."""
    row = await connection.fetchrow(f"{_LETTER} WHERE d.dead_letter_id = $1", dead_letter_id)
    if row is None:
        raise DeadLetterNotFoundError
    return _opened(cipher, row)


async def page(
    connection: Connection, cipher: Cipher, wanted: Filter, *, before: tuple[datetime, str] | None, limit: int
) -> list[StoredDeadLetter]:
    """Dead letters, newest first, after a position in that order."""
    rows = await connection.fetch(
        f"""{_LETTER} WHERE {MATCHES}
              AND ($9::timestamptz IS NULL OR (d.created_at, d.dead_letter_id) < ($9, $10))
            ORDER BY d.created_at DESC, d.dead_letter_id DESC LIMIT $11""",
        *wanted.values,
        before[0] if before else None,
        before[1] if before else None,
        limit,
    )
    return [_opened(cipher, row) for row in rows]


async def open_ones(connection: Connection, cipher: Cipher, wanted: Filter, limit: int) -> list[StoredDeadLetter]:
    """Open dead letters that a filter matches, oldest first."""
    rows = await connection.fetch(
        f"{_LETTER} WHERE d.status = 'open' AND {MATCHES} ORDER BY d.created_at, d.dead_letter_id LIMIT $9",
        *wanted.values,
        limit,
    )
    return [_opened(cipher, row) for row in rows]


async def discard(connection: Connection, cipher: Cipher, dead_letter_id: str) -> StoredDeadLetter:
    """Settle an open letter as not to be replayed; raises what :func:`refusal` says where it isn't open."""
    instance_id = await connection.fetchval(
        """UPDATE dead_letters SET status = 'discarded', updated_at = now()
            WHERE dead_letter_id = $1 AND status = 'open' RETURNING instance_id""",
        dead_letter_id,
    )
    letter = await find(connection, cipher, dead_letter_id)
    if instance_id is None:
        raise refusal(letter.status)
    await waits.forget(connection, instance_id, None)
    return letter


def refusal(status: DeadLetterStatus) -> AlreadyReplayingError | AlreadySettledError:
    """Why a letter that isn't open can neither be replayed nor discarded."""
    return AlreadyReplayingError() if status is DeadLetterStatus.REPLAYING else AlreadySettledError()


def _opened(cipher: Cipher, row: Record) -> StoredDeadLetter:
    key = None if row["wrapped"] is None else cipher.unwrap(row["user_id"], row["wrapped"])
    return StoredDeadLetter(
        dead_letter_id=row["dead_letter_id"],
        workflow_id=row["workflow_id"],
        instance_id=row["instance_id"],
        user_id=row["user_id"],
        failed_step=row["failed_step"] or None,
        run_id=row["run_id"],
        error_type=row["error_type"],
        error=None if key is None else key.decrypt_json(PLACE, row["error"]),
        attempts=row["attempts"],
        status=DeadLetterStatus(row["status"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
