"""Steps, their attempts and results: what makes a step's effect happen once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.errors import UserErasedError
from models.temporal.execution import StepContext
from privacy.encryption import Cipher, DataKey
from store.connection import Connection

INTERRUPTIONS_ALLOWED = 20
"""How often a step may be cut short by the platform before that counts as its own failure: a step that
kills its worker each time must not go on for ever."""


@dataclass(frozen=True)
class BegunAttempt:
    """An attempt that has been written, or the result that makes it unnecessary."""

    number: int
    last: bool
    """Whether a failure of this attempt is the step's."""
    done: bool
    result: bytes | None
    known: bool
    """False where the instance has ended, was taken back before Temporal's start of it came through, or is carried
    on by another run."""


_BEGIN = """
    WITH key AS (
        SELECT wrapped FROM data_keys WHERE subject = $6 AND wrapped IS NOT NULL
    ), done AS (
        SELECT result FROM steps WHERE instance_id = $1 AND step = $2
    ), present AS (
        SELECT coalesce(replayed_at, '-infinity') AS since FROM instances
        WHERE instance_id = $1 AND end_time IS NULL AND $3 <> ALL(replaced_runs) AND EXISTS (SELECT FROM key)
    ), entered AS (
        UPDATE instances SET current_step = $2, run_id = $3
        WHERE instance_id = $1 AND end_time IS NULL AND $3 <> ALL(replaced_runs)
          AND NOT EXISTS (SELECT FROM done) AND EXISTS (SELECT FROM key)
        RETURNING replaced_runs
    ), mended AS (
        UPDATE dead_letters SET status = 'replayed', updated_at = now()
        WHERE EXISTS (SELECT FROM entered WHERE replaced_runs <> '{}')
          AND instance_id = $1 AND failed_step = '' AND status = 'replaying'
    ), cut_short AS (
        UPDATE attempts SET interrupted = true, ended_at = now(), error_type = 'Interrupted'
        WHERE instance_id = $1 AND step = $2 AND ended_at IS NULL AND EXISTS (SELECT FROM present)
        RETURNING attempt
    ), earlier AS (
        SELECT count(*) AS all_of_them,
               count(*) FILTER (WHERE started_at >= since) AS counted,
               count(*) FILTER (WHERE started_at >= since AND (interrupted OR ended_at IS NULL)) AS interruptions
        FROM attempts CROSS JOIN (SELECT coalesce((SELECT since FROM present), '-infinity') AS since) AS present
        WHERE instance_id = $1 AND step = $2
    ), begun AS (
        INSERT INTO attempts (instance_id, step, attempt)
        SELECT $1, $2, all_of_them + 1 FROM earlier
        WHERE NOT EXISTS (SELECT FROM done) AND EXISTS (SELECT FROM present)
        ON CONFLICT DO NOTHING
        RETURNING attempt
    )
    SELECT all_of_them + 1 AS number,
           counted - interruptions + 1 >= $4 OR interruptions >= $5 AS last,
           EXISTS (SELECT FROM done) AS done,
           (SELECT result FROM done) AS result,
           EXISTS (SELECT FROM present) AS known,
           (SELECT wrapped FROM key) AS wrapped
    FROM earlier
"""


async def begin_attempt(
    connection: Connection, cipher: Cipher, context: StepContext, run_id: str
) -> tuple[BegunAttempt, DataKey]:
    """Write that an attempt begins, and look whether the step is done already; gives the person's key too.

    One statement, which needs no transaction around it: a step is short, and each round trip is a part of it.
    Raises :class:`UserErasedError`, and writes nothing, where the key has been destroyed.

    Earlier attempts without an end were cut short by a killed worker: they are marked as interrupted and
    don't count towards ``max_attempts``; nor do those from before a replay, which grants all of them anew.
    A replayed journey that enters a new step has got past its bug, and the dead letter of that is settled.
    """
    row = await connection.fetchrow(
        _BEGIN,
        context.instance_id,
        context.step,
        run_id,
        context.max_attempts,
        INTERRUPTIONS_ALLOWED,
        context.user_id,
    )
    assert row is not None  # an aggregate always gives a row
    if row["wrapped"] is None:
        raise UserErasedError
    begun = BegunAttempt(row["number"], row["last"], row["done"], row["result"], row["known"])
    return begun, cipher.unwrap(context.user_id, row["wrapped"])


async def complete_attempt(
    connection: Connection, context: StepContext, attempt: int, key: DataKey, result: Any
) -> None:
    """Write the attempt's end and the step's result in one statement; the first result stays.

    A dead letter that the step had left has been replayed with that.
    """
    await connection.execute(
        """
        WITH ended AS (
            UPDATE attempts SET ended_at = now(), interrupted = false, error_type = NULL
            WHERE instance_id = $1 AND step = $2 AND attempt = $3
        ), replayed AS (
            UPDATE dead_letters SET status = 'replayed', updated_at = now()
            WHERE instance_id = $1 AND failed_step = $2 AND status = 'replaying'
        )
        INSERT INTO steps (instance_id, step, position, result) VALUES ($1, $2, $5, $4) ON CONFLICT DO NOTHING
        """,
        context.instance_id,
        context.step,
        attempt,
        key.encrypt_json("steps.result", result),
        context.position,
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
) -> None:
    """Write that the attempt failed."""
    await connection.execute(
        """
        UPDATE attempts SET ended_at = now(), error_type = $4, error_message = $5, interrupted = $6
        WHERE instance_id = $1 AND step = $2 AND attempt = $3
        """,
        context.instance_id,
        context.step,
        attempt,
        error_type,
        key.encrypt("attempts.error_message", error_message.encode()),
        interrupted,
    )
