"""Ends that an instance has not written itself, and what follows from an end whoever writes it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from models.temporal.execution import StepFailure
from models.vocabulary import InstanceStatus
from privacy.encryption import Cipher, DataKey
from store.connection import Connection
from store.instances import callbacks, dead_letters, waits
from store.users import data_keys

HISTORY_LOST = "history_lost"
"""The reason of an instance whose history Temporal has lost."""
NOT_STARTED = "not_started"
"""The reason of an instance that Temporal was never told of; a repeated request may still start it."""

_LOOKED_AT = 500
_PASSED = 2000
"""How many instances a walk through all of them passes at once, whether they have ended or not."""


@dataclass(frozen=True)
class Unfinished:
    """An instance without an end."""

    instance_id: str
    workflow_id: str
    user_id: str
    current_step: str | None
    run_id: str | None


@dataclass(frozen=True)
class Ending:
    """How an instance has ended, as Temporal tells it."""

    status: InstanceStatus
    run_id: str | None
    """The run that has; None: there never was one."""
    failure: StepFailure | None
    reason: str | None
    at: datetime | None
    """None: now."""
    replayable: bool = True
    """Whether there is a history that a dead letter could be replayed from."""


def failure_without_stack(kind: str, text: str, step: str | None) -> StepFailure:
    """A failure of which there is no stack, since no code of ours raised it."""
    return StepFailure(error_type=kind, error_message=text, failed_step=step, stack_trace="")


def never_started() -> StepFailure:
    """What is shown as the failure of an instance that Temporal was never told of."""
    text = "The instance was stored, and its process ended before Temporal was told; execute it again."
    return failure_without_stack("NotStarted", text, None)


def history_lost(step: str | None) -> StepFailure:
    """What is shown as the failure of an instance whose history Temporal has lost, in a step."""
    text = "Temporal has no history of this instance any more, so it can't go on; execute the workflow again."
    return failure_without_stack("HistoryLost", text, step)


_UNFINISHED = "SELECT instance_id, workflow_id, user_id, current_step, run_id FROM instances"


async def unfinished(connection: Connection, instance_ids: Collection[str]) -> list[Unfinished]:
    """Those of some instances that have no end."""
    rows = await connection.fetch(
        f"{_UNFINISHED} WHERE instance_id = ANY($1::text[]) AND end_time IS NULL", list(instance_ids)
    )
    return [Unfinished(*row) for row in rows]


async def unstarted(connection: Connection, for_longer_than: timedelta) -> list[Unfinished]:
    """Instances that nobody has seen running, the oldest first; Temporal may know them all the same."""
    rows = await connection.fetch(
        f"""{_UNFINISHED} WHERE run_id IS NULL AND end_time IS NULL AND start_time < now() - $1::interval
            ORDER BY start_time LIMIT {_LOOKED_AT}""",
        for_longer_than,
    )
    return [Unfinished(*row) for row in rows]


async def some(connection: Connection, after: str, limit: int) -> tuple[list[Unfinished], str]:
    """The next instances that were seen running and have no end, so many at most, and after which to go on: after
    the last one from the beginning again. Costs the same however many have ended."""
    rows = await connection.fetch(
        f"""WITH next AS (SELECT * FROM instances WHERE instance_id > $1 ORDER BY instance_id LIMIT {_PASSED})
            SELECT instance_id, workflow_id, user_id, current_step, run_id, end_time IS NULL AND run_id IS NOT NULL
            FROM next ORDER BY instance_id""",
        after,
    )
    found = [Unfinished(*row[:5]) for row in rows if row[5]][:limit]
    if len(found) == limit:
        return found, found[-1].instance_id
    return found, rows[-1]["instance_id"] if len(rows) == _PASSED else ""


async def end(connection: Connection, cipher: Cipher, instance: Unfinished, ending: Ending) -> bool:
    """Write an end that an instance has not written itself, and what follows from it; says whether it was due.

    A run that a replay has replaced ends nothing, and an end stays.
    """
    key = (await data_keys.find(connection, cipher, [instance.user_id])).get(instance.user_id)
    failure = ending.failure.model_dump() if ending.failure else None
    taken = await connection.fetchval(
        """
        UPDATE instances
        SET status = $2, end_time = coalesce($3, now()), error = $4, reason = coalesce($5, reason),
            run_id = coalesce($6, run_id)
        WHERE instance_id = $1 AND end_time IS NULL AND ($6::text IS NULL OR $6 <> ALL(replaced_runs))
          AND ($6::text IS NOT NULL OR run_id IS NULL)
        RETURNING true
        """,
        instance.instance_id,
        ending.status.value,
        ending.at,
        key.encrypt_json("instances.error", failure) if key else None,
        ending.reason,
        ending.run_id,
    )
    if taken and ending.replayable:
        await on_terminal(connection, key, instance, ending.status, ending.run_id, ending.failure)
    elif taken:
        await close(connection, instance.instance_id)
    return bool(taken)


async def close(connection: Connection, instance_id: str) -> None:
    """What follows from an end that nothing carries on from, in the transaction that writes it."""
    await dead_letters.settle_ended(connection, instance_id, InstanceStatus.CANCELLED, None)
    await waits.forget(connection, instance_id, None)
    await callbacks.due(connection, instance_id)


async def on_terminal(
    connection: Connection,
    key: DataKey | None,
    instance: Unfinished,
    status: InstanceStatus,
    run_id: str | None,
    failure: StepFailure | None,
) -> None:
    """What follows from an end, in the transaction that writes it: dead letters are left and settled, waits
    forgotten, the callback sent. Waits of one that has failed stay, since a replay carries on with them."""
    await dead_letters.settle_ended(
        connection, instance.instance_id, status, failure.failed_step if failure else None
    )
    if failure is not None and key is not None and run_id is not None:
        place = (instance.workflow_id, instance.instance_id, instance.user_id)
        await dead_letters.leave(connection, key, *place, run_id, failure)
    if status is not InstanceStatus.FAILED:
        await waits.forget(connection, instance.instance_id, None)
    await callbacks.due(connection, instance.instance_id)
