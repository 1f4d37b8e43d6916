"""Ends of instances, with their effects in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Interval,
    LargeBinary,
    Text,
    any_,
    bindparam,
    case,
    func,
    literal_column,
    null,
    or_,
    text,
    update,
)
from sqlmodel import col

from models.tables.execution import Instance
from models.temporal.ending import HISTORY_LOST
from models.temporal.execution import Progress, StepFailure
from models.vocabulary import DeadLetterStatus, InstanceStatus, ProblemKind
from privacy.encryption import Cipher, DataKey
from store.connection import Connection
from store.instances import callbacks, dead_letters, waits
from store.instances.instances import Unfinished
from store.instances.states import ENDED, FENCE, UNFINISHED, transition
from store.statements import parameters, statement
from store.users import data_keys

_THIS = col(Instance.instance_id) == bindparam("instance_id")
_NO_END = col(Instance.end_time).is_(None)
_CURRENT = text(FENCE)
_TAKEN: ColumnElement[bool] = literal_column("true")


@dataclass(frozen=True)
class Ending:
    status: InstanceStatus
    run_id: str | None
    """The run that ended; None if there was none."""
    failure: StepFailure | None = None
    reason: str | None = None
    at: datetime | None = None
    """None: now."""
    problem: ProblemKind | None = None
    """What the ended instance still shows as its problem, until a replay."""


_FINISH = statement(
    update(Instance)
    .values(
        variables=func.coalesce(bindparam("variables", type_=LargeBinary()), col(Instance.variables)),
        end_time=func.now(),
        problem=null(),
        problem_since=null(),
        # Keep the reason that a withdrawal set before the workflow ended as cancelled.
        reason=case(
            (
                bindparam("status", type_=Text()) == InstanceStatus.CANCELLED.value,
                func.coalesce(col(Instance.reason), bindparam("reason", type_=Text())),
            ),
            else_=bindparam("reason", type_=Text()),
        ),
        **parameters("status", "current_step", "run_id", "error"),
    )
    .where(_THIS, _CURRENT)
    .returning(_TAKEN)
)


@transition(UNFINISHED, ENDED)
async def finish(connection: Connection, key: DataKey, progress: Progress, run_id: str) -> bool:
    """Write the end that a workflow records, and apply its effects.

    Returns False and writes nothing if the instance has ended or a replay has replaced the run.
    """
    taken = await _FINISH.fetchval(
        connection,
        instance_id=progress.instance_id,
        status=progress.status.value,
        current_step=progress.current_step,
        run_id=run_id,
        variables=key.encrypt_json("instances.variables", progress.variables, progress.instance_id),
        error=_encrypted_error(key, progress.instance_id, progress.error),
        reason=progress.reason,
    )
    if not taken:
        return False
    await waits.end(connection, key, progress.instance_id, progress.waits)
    instance = Unfinished(
        progress.instance_id, progress.workflow_id, progress.user_id, progress.current_step, run_id
    )
    await _on_terminal(connection, key, instance, Ending(progress.status, run_id, progress.error))
    return True


def _encrypted_error(key: DataKey, instance_id: str, failure: StepFailure | None) -> bytes | None:
    return key.encrypt_json("instances.error", failure.model_dump() if failure else None, instance_id)


_END = (
    update(Instance)
    .values(
        status=bindparam("status"),
        end_time=func.coalesce(bindparam("at", type_=DateTime(timezone=True)), func.now()),
        error=bindparam("error"),
        reason=func.coalesce(bindparam("reason", type_=Text()), col(Instance.reason)),
        problem=bindparam("problem", type_=Text()),
        problem_since=case((bindparam("problem", type_=Text()).is_not(None), func.now())),
    )
    .where(_THIS)
    .returning(_TAKEN)
)
_END_RUN = statement(_END.values(run_id=bindparam("run_id")).where(_CURRENT))
_END_WITHOUT_RUN = statement(_END.where(col(Instance.run_id).is_(None), _NO_END))


@transition(UNFINISHED, (InstanceStatus.FAILED, InstanceStatus.CANCELLED))
async def end_unrecorded(connection: Connection, cipher: Cipher, instance: Unfinished, ending: Ending) -> bool:
    """Write an end that the workflow didn't record, and apply its effects.

    Returns False and writes nothing if the instance has ended or a replay has replaced the run. The same holds for
    an ending without a run if a run has been recorded.
    """
    found = (await data_keys.find_each(connection, cipher, [instance.user_id])).get(instance.user_id)
    # With a damaged key the end has no error text, so that it delays no other instance's end.
    key = found if isinstance(found, DataKey) else None
    values = {
        "instance_id": instance.instance_id,
        "status": ending.status.value,
        "at": ending.at,
        "error": _encrypted_error(key, instance.instance_id, ending.failure) if key else None,
        "reason": ending.reason,
        "problem": ending.problem.value if ending.problem else None,
    }
    if ending.run_id is None:
        taken = await _END_WITHOUT_RUN.fetchval(connection, **values)
    else:
        taken = await _END_RUN.fetchval(connection, run_id=ending.run_id, **values)
    if taken:
        await _on_terminal(connection, key, instance, ending)
    return bool(taken)


_START_TRIED_AT = func.coalesce(
    col(Instance.replayed_at),
    case((col(Instance.bulk_id).is_not(None), col(Instance.start_tried_at)), else_=col(Instance.start_time)),
)
"""NULL for an instance of a bulk that waits for its turn."""
_END_UNSTARTED = statement(
    update(Instance)
    .values(
        status=InstanceStatus.CANCELLED.value,
        end_time=func.coalesce(col(Instance.end_time), func.now()),
        problem=null(),
        problem_since=null(),
    )
    .where(
        _THIS,
        or_(col(Instance.run_id).is_(None), col(Instance.run_id) == any_(col(Instance.replaced_runs))),
        or_(_NO_END, col(Instance.status) == InstanceStatus.CANCELLED.value),
    )
    .returning(
        col(Instance.instance_id),
        col(Instance.workflow_id),
        col(Instance.user_id),
        col(Instance.current_step),
        col(Instance.run_id),
        literal_column("old.end_time IS NULL").label("ended_now"),
        (func.now() - bindparam("start_within", type_=Interval()) < _START_TRIED_AT).label("may_start"),
    )
)


@transition(UNFINISHED, (InstanceStatus.CANCELLED,))
async def end_unstarted(connection: Connection, instance_id: str, start_within: timedelta) -> bool | None:
    """Cancel an instance before its start or replay has reached Temporal, and fence off a later run.

    Returns whether such a run may still start, also for an instance that is already cancelled. Returns None and
    writes nothing if a current run is recorded or the instance has ended otherwise.
    """
    row = await _END_UNSTARTED.fetchrow(connection, instance_id=instance_id, start_within=start_within)
    if row is None:
        return None
    if row["ended_now"]:
        ending = Ending(InstanceStatus.CANCELLED, None)
        await _on_terminal(connection, None, Unfinished(*row[:5]), ending)
    return bool(row["may_start"])


async def _on_terminal(connection: Connection, key: DataKey | None, instance: Unfinished, ending: Ending) -> None:
    """Apply the effects of an end: settle and open dead letters, drop waits, make the callback due.

    After a replay, the replayed dead letter is settled, or opens again if the same step has failed again. An
    instance that can be replayed keeps its waits, since the replayed run needs them.
    """
    failure, can_be_replayed = ending.failure, ending.status is InstanceStatus.FAILED
    completed = ending.status is InstanceStatus.COMPLETED
    settled = DeadLetterStatus.REPLAYED if completed or can_be_replayed else DeadLetterStatus.DISCARDED
    failed_step = failure.failed_step if failure and can_be_replayed else None
    await dead_letters.settle(connection, instance.instance_id, settled, except_step=failed_step)
    if can_be_replayed:
        if failure is not None and key is not None and ending.run_id is not None:
            await dead_letters.record(connection, key, instance, ending.run_id, failure)
    else:
        await waits.drop(connection, instance.instance_id)
    await callbacks.mark_due(connection, instance.instance_id)


_REJECT_REPLAY = statement(
    update(Instance)
    .values(
        status=InstanceStatus.FAILED.value,
        end_time=func.now(),
        error=bindparam("error"),
        reason=func.coalesce(bindparam("reason", type_=Text()), col(Instance.reason)),
        problem=bindparam("problem", type_=Text()),
        problem_since=case((bindparam("problem", type_=Text()).is_not(None), func.now())),
    )
    .where(_THIS, _NO_END)
    .returning(_TAKEN)
)


@transition(UNFINISHED, (InstanceStatus.FAILED,))
async def reject_replay(
    connection: Connection,
    key: DataKey,
    instance_id: str,
    error: Mapping[str, Any] | None,
    *,
    lost: bool = False,
) -> None:
    """End an instance with its earlier failure, if Temporal can't carry out its replay.

    Its dead letter and its waits stay. The callback is due again, since the first end's report may have been
    skipped while the replay was pending. ``lost``: Temporal had lost its history, which it shows again.
    """
    encrypted = key.encrypt_json("instances.error", error, instance_id)
    reason, problem = (HISTORY_LOST, ProblemKind.HISTORY_LOST.value) if lost else (None, None)
    await _REJECT_REPLAY.execute(
        connection, instance_id=instance_id, error=encrypted, reason=reason, problem=problem
    )
    await callbacks.mark_due(connection, instance_id)
