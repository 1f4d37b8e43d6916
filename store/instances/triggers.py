"""Windows: how often a workflow starts for a user, and for a key if it has one.

- ``once_per``: a trigger starts at most one instance within that time. Requests are not bound.
- ``once``: the same for ever, and for requests too.
- a key: the next instance starts when the last one has ended, by a trigger or a request.

Each is one row of ``trigger_windows``, whose lock orders concurrent starts. For a key the unique index on
``instances`` guards the same rule once more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Interval,
    LargeBinary,
    and_,
    bindparam,
    case,
    column,
    delete,
    func,
    literal_column,
    null,
    or_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlmodel import col

from models.instances import NewInstance
from models.tables.execution import Instance, Message, TriggerWindow
from models.vocabulary import SENT_OR_MAYBE, InstanceStatus
from store.connection import Connection
from store.instances.states import NOT_STARTED
from store.statements import one_of, parameters, select, statement, unnested

NO_KEY = b""

_OPENED_AT: ColumnElement[Any] = case((bindparam("counts", type_=Boolean()), func.now()), else_=null())
_WINDOW = upsert(TriggerWindow).values(
    opened_at=_OPENED_AT, **parameters("workflow_id", "user_id", "key_digest", "instance_id")
)
_SAME = col(TriggerWindow.instance_id) == _WINDOW.excluded.instance_id
# SQLAlchemy doesn't correlate with the table of an INSERT: the column would add a FROM of all windows.
_HOLDER_OF_INSERTED = col(Instance.instance_id) == literal_column("trigger_windows.instance_id")
_NEVER_STARTED = (
    select(col(Instance.instance_id))
    .where(
        _HOLDER_OF_INSERTED,
        or_(col(Instance.reason) == NOT_STARTED, col(Instance.status) == InstanceStatus.CANCELLED.value),
        col(Instance.run_id).is_(None),
    )
    .exists()
)
_OVER = or_(
    col(TriggerWindow.opened_at).is_(None),
    col(TriggerWindow.opened_at) <= func.now() - bindparam("once_per", type_=Interval()),
)
_OPEN = statement(
    _WINDOW.on_conflict_do_update(
        index_elements=[
            col(TriggerWindow.workflow_id),
            col(TriggerWindow.user_id),
            col(TriggerWindow.key_digest),
        ],
        set_={
            "instance_id": _WINDOW.excluded.instance_id,
            "opened_at": case((_SAME, col(TriggerWindow.opened_at)), else_=_WINDOW.excluded.opened_at),
        },
        where=or_(
            _SAME,
            # With a key, only the next statement sees the holder's state as of the lock.
            and_(col(TriggerWindow.key_digest) == literal_column("''::bytea"), or_(_OVER, _NEVER_STARTED)),
        ),
    ).returning(literal_column("true"))
)
_THIS = (
    col(TriggerWindow.workflow_id) == bindparam("workflow_id"),
    col(TriggerWindow.user_id) == bindparam("user_id"),
)
_THIS_KEY = (*_THIS, col(TriggerWindow.key_digest) == bindparam("key_digest", type_=LargeBinary()))
_HOLDER_RUNS = (
    select(col(Instance.instance_id))
    .where(col(Instance.instance_id) == col(TriggerWindow.instance_id), col(Instance.end_time).is_(None))
    .exists()
)
_TAKE_OVER = statement(
    update(TriggerWindow)
    .values(
        instance_id=bindparam("instance_id"),
        opened_at=case((bindparam("counts", type_=Boolean()), func.now()), else_=col(TriggerWindow.opened_at)),
    )
    .where(*_THIS_KEY, ~_HOLDER_RUNS, or_(_OVER, _NEVER_STARTED))
    .returning(literal_column("true"))
)


async def open_window(connection: Connection, new: NewInstance, once_per: timedelta | None) -> bool:
    """Open the window of a workflow for a user and key; False while another instance holds it.

    ``once_per`` is None for a start that this time doesn't bind; then only a key is a reason to call this.
    An instance that ended without a run, such as one that was cancelled in the queue of a bulk, holds no window.

    The caller stores the instance in the same transaction. Of two processes, the second waits for the row's lock,
    which the upsert takes also if it changes nothing. So its next statement sees the first one's commit and
    instance.
    """
    window = {
        "workflow_id": new.workflow_id,
        "user_id": new.user_id,
        "key_digest": new.key_digest or NO_KEY,
        "instance_id": new.instance_id,
        "once_per": once_per or timedelta(),
        "counts": once_per is not None,
    }
    if await _OPEN.fetchval(connection, **window):
        return True
    return new.key_digest is not None and bool(await _TAKE_OVER.fetchval(connection, **window))


_HOLDER = statement(select(col(TriggerWindow.instance_id), _HOLDER_RUNS.label("runs")).where(*_THIS_KEY))


async def holder(connection: Connection, new: NewInstance) -> tuple[str, bool]:
    """The id of the instance whose window :func:`open_window` found open, and whether it runs."""
    row = await _HOLDER.fetchrow(
        connection,
        workflow_id=new.workflow_id,
        user_id=new.user_id,
        key_digest=new.key_digest or NO_KEY,
    )
    assert row is not None  # this transaction has locked it
    return row["instance_id"], row["runs"]


_CLOSE = statement(delete(TriggerWindow).where(*_THIS, col(TriggerWindow.instance_id) == bindparam("instance_id")))


async def close_window(connection: Connection, workflow_id: str, user_id: str, instance_id: str) -> None:
    """Close an instance's window, so that another one may start at once."""
    await _CLOSE.execute(connection, workflow_id=workflow_id, user_id=user_id, instance_id=instance_id)


_EXITED = unnested(
    "exited", col(TriggerWindow.workflow_id), col(TriggerWindow.user_id), col(TriggerWindow.instance_id)
)
_GIVE_BACK = statement(
    update(TriggerWindow)
    .values(opened_at=null())
    .where(
        col(TriggerWindow.opened_at).is_not(None),
        *(getattr(TriggerWindow, name) == _EXITED.c[name] for name in ("workflow_id", "user_id", "instance_id")),
        ~select(col(Message.message_id))
        .where(col(Message.instance_id) == col(TriggerWindow.instance_id), one_of(col(Message.status), "counted"))
        .exists(),
    )
    .returning(col(TriggerWindow.workflow_id), col(TriggerWindow.user_id))
)


async def give_back(connection: Connection, exited: Collection[tuple[str, str, str]]) -> set[tuple[str, str]]:
    """Let the windows of instances not count that an exit ends before they have sent a message.

    They are given as (workflow, user, instance). Returns the (workflow, user) pairs of these windows. With a key
    the next instance starts when this one has ended.
    """
    if not exited:
        return set()
    workflow_ids, user_ids, instance_ids = zip(*sorted(set(exited)), strict=True)
    rows = await _GIVE_BACK.fetch(
        connection,
        workflow_id=list(workflow_ids),
        user_id=list(user_ids),
        instance_id=list(instance_ids),
        counted=list(SENT_OR_MAYBE),
    )
    return {(row["workflow_id"], row["user_id"]) for row in rows}


_WANTED = unnested(
    "wanted", col(TriggerWindow.workflow_id), col(TriggerWindow.user_id), column("once_per", Interval())
)
_STILL_OPEN = statement(
    select(col(TriggerWindow.workflow_id), col(TriggerWindow.user_id))
    .join(
        _WANTED,
        and_(
            col(TriggerWindow.workflow_id) == _WANTED.c.workflow_id,
            col(TriggerWindow.user_id) == _WANTED.c.user_id,
        ),
    )
    .where(col(TriggerWindow.opened_at) > func.now() - _WANTED.c.once_per)
)


async def still_open(
    connection: Connection, wanted: Collection[tuple[str, str]], once_per: Mapping[str, timedelta]
) -> set[tuple[str, str]]:
    """The (workflow, user) pairs with an open window, which would reject a start.

    The check only avoids useless outbox entries; :func:`open_window` decides.
    """
    limited = [(workflow_id, user_id) for workflow_id, user_id in wanted if workflow_id in once_per]
    if not limited:
        return set()
    rows = await _STILL_OPEN.fetch(
        connection,
        workflow_id=[workflow_id for workflow_id, _ in limited],
        user_id=[user_id for _, user_id in limited],
        once_per=[once_per[workflow_id] for workflow_id, _ in limited],
    )
    return {(row["workflow_id"], row["user_id"]) for row in rows}
