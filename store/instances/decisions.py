"""Decisions: triggers that were not followed, and messages that were not sent.

A row counts the triggers of one user, workflow and reason within an hour, so a stream of events that start nothing
writes few rows (ADR 0044). Messages have their reason in their own table, so the list reads both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import merge
from itertools import islice
from typing import Literal

from sqlalchemy import ColumnElement, Text, bindparam, func, literal, literal_column, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.tables.execution import Decision, Instance, Message
from models.tables.people import DataKey
from models.vocabulary import MessageStatus, NotStarted
from store.connection import Connection
from store.statements import filtered, one_of, select, statement, unnested


@dataclass(frozen=True)
class RefusedTrigger:
    """An event that matches a workflow's trigger and started nothing."""

    workflow_id: str
    user_id: str
    reason: NotStarted
    event_id: str


_GIVEN = unnested(
    "given",
    *(col(Decision.user_id), col(Decision.workflow_id), col(Decision.reason)),
    *(col(Decision.first_event_id), col(Decision.event_id), col(Decision.times)),
)
_NEW = insert(Decision).from_select(
    ["hour", *(each.name for each in _GIVEN.c)],
    select(func.date_trunc("hour", func.now(), "UTC"), *_GIVEN.c)
    .join(DataKey, col(DataKey.subject) == _GIVEN.c.user_id)
    .where(col(DataKey.wrapped).is_not(None))
    .order_by(_GIVEN.c.user_id, _GIVEN.c.workflow_id, _GIVEN.c.reason),
)
_RECORD = statement(
    _NEW.on_conflict_do_update(
        index_elements=["user_id", "hour", "workflow_id", "reason"],
        # No index has these columns, so that an update is a HOT one.
        set_={
            "at": func.greatest(col(Decision.at), _NEW.excluded.at),
            "event_id": _NEW.excluded.event_id,
            "times": col(Decision.times) + _NEW.excluded.times,
        },
    )
)


async def record(connection: Connection, refused: Sequence[RefusedTrigger]) -> None:
    """Count triggers that were not followed, in their order. Those of erased users are not counted.

    The caller holds the users' consent buckets, so that no erasure commits meanwhile. The statement writes rows in
    the order of their keys, so that two callers don't deadlock.
    """
    if not refused:
        return
    counted: dict[tuple[str, str, str], tuple[str, str, int]] = {}
    for each in refused:
        place = (each.user_id, each.workflow_id, each.reason.value)
        first, _, times = counted.get(place, (each.event_id, "", 0))
        counted[place] = first, each.event_id, times + 1
    await _RECORD.execute(
        connection,
        user_id=[user_id for user_id, _, _ in counted],
        workflow_id=[workflow_id for _, workflow_id, _ in counted],
        reason=[reason for _, _, reason in counted],
        first_event_id=[first for first, _, _ in counted.values()],
        event_id=[latest for _, latest, _ in counted.values()],
        times=[times for _, _, times in counted.values()],
    )


@dataclass(frozen=True)
class Made:
    """A decision about a user. ``instance_id``, ``message_id`` and ``template`` are those of a message."""

    at: datetime
    row_id: str
    """Orders the user's decisions of one moment."""
    workflow_id: str
    event_id: str | None
    reason: str
    decision: Literal["not_started", "not_sent"] = "not_started"
    times: int = 1
    first_at: datetime | None = None
    first_event_id: str | None = None
    instance_id: str | None = None
    message_id: str | None = None
    template: str | None = None


_BEFORE = tuple_(bindparam("before_at"), bindparam("before_id", type_=Text))
_ROW_ID: ColumnElement[str] = func.concat_ws(
    literal_column("'/'"), col(Decision.workflow_id), col(Decision.reason), type_=Text
)
# `hour` orders like `at`, and is in the primary key.
_TRIGGERS = filtered(
    select(
        col(Decision.at),
        _ROW_ID.label("row_id"),
        col(Decision.workflow_id),
        col(Decision.event_id),
        col(Decision.reason),
        col(Decision.times),
        col(Decision.first_at),
        col(Decision.first_event_id),
    )
    .where(col(Decision.user_id) == bindparam("user_id"))
    .order_by(col(Decision.hour).desc(), col(Decision.at).desc(), _ROW_ID.desc())
    .limit(bindparam("limit")),
    workflow=col(Decision.workflow_id) == bindparam("workflow_id"),
    since=col(Decision.at) >= bindparam("since"),
    since_hour=col(Decision.hour) >= bindparam("since_hour"),
    before=tuple_(col(Decision.at), _ROW_ID) < _BEFORE,
    before_hour=col(Decision.hour) <= bindparam("before_hour"),
)
_NOT_SENT = (MessageStatus.SUPPRESSED, MessageStatus.WITHDRAWN, MessageStatus.REFUSED)
"""A message without a reason of its own was withdrawn with its instance, or refused by the transport."""
_MESSAGES = filtered(
    select(
        col(Message.created_at).label("at"),
        col(Message.message_id).label("row_id"),
        col(Instance.workflow_id),
        col(Instance.trigger_event_id).label("event_id"),
        func.coalesce(col(Message.reason), col(Message.status)).label("reason"),
        literal("not_sent").label("decision"),
        col(Message.instance_id),
        col(Message.message_id),
        col(Message.template),
    )
    .join(Instance, col(Instance.instance_id) == col(Message.instance_id))
    .where(col(Message.user_id) == bindparam("user_id"), one_of(col(Message.status), "statuses"))
    .order_by(col(Message.created_at).desc(), col(Message.message_id).desc())
    .limit(bindparam("limit")),
    workflow=col(Instance.workflow_id) == bindparam("workflow_id"),
    since=col(Message.created_at) >= bindparam("since"),
    before=tuple_(col(Message.created_at), col(Message.message_id)) < _BEFORE,
)


async def page(
    connection: Connection,
    user_id: str,
    *,
    workflow_id: str | None,
    since: datetime | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[Made]:
    """A user's decisions, newest first, before a (time, row id).

    A row of the running hour moves to the top when it counts another trigger.
    """
    before_at, before_id = before or (None, None)
    wanted = {
        "user_id": user_id,
        "workflow_id": workflow_id,
        "since": since,
        "before_at": before_at,
        "before_id": before_id,
        "limit": limit,
    }
    triggers = await _TRIGGERS.fetch(connection, since_hour=_hour(since), before_hour=_hour(before_at), **wanted)
    messages = await _MESSAGES.fetch(connection, statuses=[each.value for each in _NOT_SENT], **wanted)
    made = merge(
        *([Made(**each) for each in rows] for rows in (triggers, messages)),
        key=lambda each: (each.at, each.row_id),
        reverse=True,
    )
    return list(islice(made, limit))


def _hour(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
