"""Windows: a trigger starts at most one instance for a user within ``once_per``.

The window of a workflow that runs ``once`` lasts for ever, and a request opens it too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta

from sqlalchemy import Interval, and_, bindparam, case, column, delete, func, literal_column, or_
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlmodel import col

from models.instances import NewInstance
from models.tables.execution import Instance, Message, TriggerWindow
from models.vocabulary import SENT_OR_MAYBE
from store.connection import Connection
from store.instances.states import NOT_STARTED
from store.statements import one_of, parameters, select, statement, unnested

_WINDOW = upsert(TriggerWindow).values(parameters("workflow_id", "user_id", "instance_id"))
_SAME = col(TriggerWindow.instance_id) == _WINDOW.excluded.instance_id
_NEVER_STARTED = (
    select(col(Instance.instance_id))
    .where(
        # SQLAlchemy doesn't correlate with the table of an INSERT: the column would add a FROM of all windows.
        col(Instance.instance_id) == literal_column("trigger_windows.instance_id"),
        col(Instance.reason) == NOT_STARTED,
        col(Instance.run_id).is_(None),
    )
    .exists()
)
_OPEN = statement(
    _WINDOW.on_conflict_do_update(
        index_elements=[col(TriggerWindow.workflow_id), col(TriggerWindow.user_id)],
        set_={
            "instance_id": _WINDOW.excluded.instance_id,
            "opened_at": case((_SAME, col(TriggerWindow.opened_at)), else_=func.now()),
        },
        where=or_(
            _SAME,
            col(TriggerWindow.opened_at) <= func.now() - bindparam("once_per", type_=Interval()),
            _NEVER_STARTED,
        ),
    ).returning(literal_column("true"))
)


async def open_window(connection: Connection, new: NewInstance, once_per: timedelta) -> bool:
    """Open the window of a workflow for a user; False while another instance's window is open.

    An instance that never started holds no window.

    The caller stores the instance in the same transaction. Of two processes, the second waits for the row lock and
    sees the first one's commit.
    """
    opened = await _OPEN.fetchval(
        connection,
        workflow_id=new.workflow_id,
        user_id=new.user_id,
        instance_id=new.instance_id,
        once_per=once_per,
    )
    return bool(opened)


_THIS = (
    col(TriggerWindow.workflow_id) == bindparam("workflow_id"),
    col(TriggerWindow.user_id) == bindparam("user_id"),
)
_HOLDER = statement(select(col(TriggerWindow.instance_id)).where(*_THIS))


async def holder(connection: Connection, workflow_id: str, user_id: str) -> str:
    """The id of the instance whose window :func:`open_window` found open."""
    found: str = await _HOLDER.fetchval(connection, workflow_id=workflow_id, user_id=user_id)
    return found


_CLOSE = statement(delete(TriggerWindow).where(*_THIS, col(TriggerWindow.instance_id) == bindparam("instance_id")))


async def close_window(connection: Connection, workflow_id: str, user_id: str, instance_id: str) -> None:
    """Close an instance's window, so that another one may start at once."""
    await _CLOSE.execute(connection, workflow_id=workflow_id, user_id=user_id, instance_id=instance_id)


_EXITED = unnested(
    "exited", col(TriggerWindow.workflow_id), col(TriggerWindow.user_id), col(TriggerWindow.instance_id)
)
_GIVE_BACK = statement(
    delete(TriggerWindow)
    .where(
        *(getattr(TriggerWindow, name) == _EXITED.c[name] for name in ("workflow_id", "user_id", "instance_id")),
        ~select(col(Message.message_id))
        .where(col(Message.instance_id) == col(TriggerWindow.instance_id), one_of(col(Message.status), "counted"))
        .exists(),
    )
    .returning(col(TriggerWindow.workflow_id), col(TriggerWindow.user_id))
)


async def give_back(connection: Connection, exited: Collection[tuple[str, str, str]]) -> set[tuple[str, str]]:
    """Close the windows of instances that an exit ends before they have sent a message.

    They are given as (workflow, user, instance). Returns the (workflow, user) pairs of the closed windows.
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
