"""Bulks: instances of one workflow that one request starts for many users.

The request's transaction stores all instances, with an outbox entry for each. :mod:`activities.outbox` starts them
in Temporal, paced. If the API or a worker dies:

1. before the commit: nothing has happened.
2. after it: the rows and the entries are there. Any worker starts the instances when they are due.
3. after the call to Temporal, before the entry is removed: the entry is delivered again, and finds the run.

An instance that waits for its turn has the status `running`, and no run. A request can cancel it, and a withdrawal
ends it. Whether it may start is checked when it is stored, and again at its turn.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, delete, func, text
from sqlmodel import col

from models.errors import (
    AlreadyFinishedError,
    AlreadyRunError,
    AlreadyRunningError,
    BulkNotFoundError,
    ConsentRequiredError,
    PerennialError,
)
from models.instances import NewInstance
from models.rules.triggers import resolved
from models.tables.execution import Instance
from models.tables.projections import TemporalOutbox
from models.temporal.starting import Startable
from models.vocabulary import InstanceStatus
from privacy.encryption import Cipher, DataKey
from store import outbox
from store.connection import Connection
from store.consents import locks
from store.instances import instances, starting, terminal, transitions, triggers
from store.instances.attempts import BegunStart
from store.instances.instances import Unfinished
from store.instances.starting import StartRequest, WindowOpenError
from store.instances.states import CONSENT_WITHDRAWN
from store.instances.terminal import Ending
from store.outbox import OutboxEntry
from store.statements import select, statement
from store.users import data_keys

_INSTANCE_IDS = uuid.UUID("6d0a6f0e-8f0b-4f0e-9d6b-0a3f9b1f6f51")


@dataclass(frozen=True)
class BulkRequest:
    bulk_id: str
    user_ids: Sequence[str]
    """Distinct."""
    started_by: str
    """The id of an API key."""
    parameters: dict[str, Any]
    max_attempts: int | None
    """None: the admin's setting for the workflow, else the workflow's own number."""
    pause: timedelta
    """Between two starts."""


@dataclass(frozen=True)
class Refused:
    """Why no instance was stored for a user."""

    code: str
    message: str
    instance_id: str | None = None
    """The instance that prevents it."""


_KEY_RUNS = Refused(AlreadyRunningError.code, "The workflow runs already.")


async def start(
    connection: Connection, cipher: Cipher, workflow: Startable, request: BulkRequest
) -> dict[str, str | Refused]:
    """Store a bulk and queue its starts; returns the new instance's id or the refusal for each user.

    The instances' exits are registered when they start. They then count the events since now. Raises
    :class:`ParameterMissingError`, which would hold for all users.
    """
    resolved(workflow.exits, request.parameters)
    values = starting.key_values(workflow, request.parameters) if workflow.key else None
    if workflow.purpose is not None:
        # Wait for withdrawals and closings in progress: the next statement then sees them.
        await locks.share(connection, request.user_ids)
    refused: dict[str, Refused] = {}
    keys: dict[str, DataKey] = {}
    new: dict[str, NewInstance] = {}
    for user_id, found in (await starting.check_all(connection, cipher, workflow, request.user_ids)).items():
        if isinstance(found, PerennialError):
            refused[user_id] = Refused(found.code, found.detail)
            continue
        keys[user_id], setting = found
        new[user_id] = NewInstance(
            instance_id=uuid.uuid5(_INSTANCE_IDS, f"{request.bulk_id}/{user_id}").hex,
            workflow_id=workflow.workflow_id,
            user_id=user_id,
            max_attempts=request.max_attempts or setting or workflow.max_attempts,
            parameters=request.parameters,
            started_by=request.started_by,
            purpose=workflow.purpose,
            key_digest=None if values is None else cipher.instance_key(workflow.workflow_id, user_id, values),
        )
    refused |= await _refused_by_others(connection, workflow, new)
    wanted = [each for user_id, each in new.items() if user_id not in refused]
    stored = await transitions.insert_all(connection, request.bulk_id, wanted, keys)
    started = {each.user_id: each.instance_id for each in wanted if each.user_id in stored}
    await _queue(connection, request.bulk_id, workflow.workflow_id, started, request.pause)
    return {user_id: started.get(user_id) or refused.get(user_id, _KEY_RUNS) for user_id in request.user_ids}


async def _refused_by_others(
    connection: Connection, workflow: Startable, new: Mapping[str, NewInstance]
) -> dict[str, Refused]:
    """The users for whom another instance prevents a new one. Opens the windows of the others."""
    if not workflow.once and not workflow.key:
        return {}
    holders: dict[str, str] = {}
    for user_id in sorted(new):  # in order, so that two bulks never wait for each other
        try:
            await starting.open_window(connection, workflow, new[user_id], again=False)
        except WindowOpenError as error:
            holders[user_id] = error.instance_id
    running = {each.instance_id for each in await instances.unfinished(connection, holders.values())}
    return {
        user_id: Refused(AlreadyRunningError.code, "The workflow runs already.", instance_id)
        if instance_id in running
        else Refused(AlreadyRunError.code, "The workflow runs once for a user, and has run.", instance_id)
        for user_id, instance_id in holders.items()
    }


_QUEUED = statement(
    select(func.max(col(TemporalOutbox.due_at)) - func.now()).where(
        col(TemporalOutbox.workflow_id) == bindparam("workflow_id"), text("kind = 'execute' AND NOT dead")
    )
)


async def _queue(
    connection: Connection, bulk_id: str, workflow_id: str, instances: Mapping[str, str], pause: timedelta
) -> None:
    """Start stored instances, given as ids by user, one every ``pause``, after the workflow's other bulks.

    Two requests at once may take the same place in the queue; their instances then start in turn.
    """
    queued: timedelta | None = await _QUEUED.fetchval(connection, workflow_id=workflow_id)
    now = datetime.now(UTC)
    entries = [
        OutboxEntry("execute", workflow_id, instance_id, None, user_id, bulk_id, "bulk.execute", now)
        for user_id, instance_id in instances.items()
    ]
    after = timedelta() if queued is None else max(queued + pause, timedelta())
    await outbox.write(connection, entries, pause=pause, after=after)


async def request_of(
    connection: Connection,
    cipher: Cipher,
    workflow: Startable,
    user_id: str,
    instance_id: str,
    begun: BegunStart,
) -> StartRequest:
    """The request to start a stored instance, whose row it then finds. Raises :class:`UserErasedError`.

    The workflow's own number of attempts doesn't count as asked for: it would limit the steps with more attempts.
    """
    key = await data_keys.require(connection, cipher, user_id)
    parameters = key.decrypt_json("instances.parameters", begun.parameters, instance_id)
    return StartRequest(
        instance_id=instance_id,
        user_id=user_id,
        started_by=begun.started_by,
        parameters=parameters or {},
        max_attempts=begun.max_attempts,
        limits_attempts=begun.max_attempts != workflow.max_attempts,
    )


async def refuse(
    connection: Connection, cipher: Cipher, workflow_id: str, user_id: str, instance_id: str, error: Exception
) -> None:
    """End an instance as cancelled that may not start at its turn. The reason is the error's code."""
    if isinstance(error, ConsentRequiredError):
        reason = CONSENT_WITHDRAWN  # it was there when the bulk was stored
    else:
        reason = error.code if isinstance(error, PerennialError) else AlreadyRunningError.code
    instance = Unfinished(instance_id, workflow_id, user_id, None, None)
    ending = Ending(InstanceStatus.CANCELLED, None, reason=reason)
    if await terminal.end_unrecorded(connection, cipher, instance, ending):
        await triggers.close_window(connection, workflow_id, user_id, instance_id)


@dataclass(frozen=True)
class Bulk:
    """The instances of a bulk that are still kept."""

    bulk_id: str
    workflow_id: str
    created_at: datetime
    statuses: Mapping[InstanceStatus, int]
    queued: int
    """Running ones that wait for their turn."""


_THIS = (
    col(Instance.bulk_id) == bindparam("bulk_id"),
    col(Instance.workflow_id) == bindparam("workflow_id"),
)
_NO_END = col(Instance.end_time).is_(None)
_COUNT = statement(
    select(
        col(Instance.status),
        func.count().label("number"),
        func.count().filter(_NO_END, col(Instance.start_tried_at).is_(None)).label("queued"),
        func.min(col(Instance.start_time)).label("created_at"),
    )
    .where(*_THIS)
    .group_by(col(Instance.status))
)


async def find(connection: Connection, workflow_id: str, bulk_id: str) -> Bulk:
    """Raises :class:`BulkNotFoundError`, also if no instance of it was started or is kept."""
    rows = await _COUNT.fetch(connection, bulk_id=bulk_id, workflow_id=workflow_id)
    if not rows:
        raise BulkNotFoundError
    counts = {InstanceStatus(row["status"]): row["number"] for row in rows}
    return Bulk(
        bulk_id,
        workflow_id,
        created_at=min(row["created_at"] for row in rows),
        statuses={status: counts.get(status, 0) for status in InstanceStatus},
        queued=sum(row["queued"] for row in rows),
    )


_DROP_EXECUTIONS = statement(
    delete(TemporalOutbox).where(
        col(TemporalOutbox.workflow_id) == bindparam("workflow_id"),
        text("kind = 'execute' AND NOT dead"),
        col(TemporalOutbox.event_id) == bindparam("bulk_id"),
    )
)


async def _unqueue(connection: Connection, workflow_id: str, bulk_id: str) -> None:
    """Take the starts of a bulk out of the queue; one that a worker is making goes on."""
    await _DROP_EXECUTIONS.execute(connection, workflow_id=workflow_id, bulk_id=bulk_id)


_UNFINISHED = statement(
    select(col(Instance.workflow_id), col(Instance.instance_id), col(Instance.user_id)).where(*_THIS, _NO_END)
)


async def cancel(connection: Connection, workflow_id: str, bulk_id: str) -> list[str]:
    """Cancel the unfinished instances of a bulk, queued ones included; returns their users.

    A worker may be starting one meanwhile. The outbox then finds its run, and cancels it.

    Raises :class:`BulkNotFoundError`, and :class:`AlreadyFinishedError` if all have ended.
    """
    rows = await _UNFINISHED.fetch(connection, bulk_id=bulk_id, workflow_id=workflow_id)
    if not rows:
        await find(connection, workflow_id, bulk_id)
        raise AlreadyFinishedError
    await _unqueue(connection, workflow_id, bulk_id)
    await outbox.write_cancellations(connection, [tuple(row) for row in rows], outbox.CANCEL_REQUESTED)
    return [row["user_id"] for row in rows]
