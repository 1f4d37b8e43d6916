"""Waits of instances for events: register the wait first, then read the log (decision 8).

So no event is missed. A wait's registration commits before the log is read. An event commits before the projector
reads registrations. So the later of the two sees the other. If both do, they deliver the same event id.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from sqlalchemy import DateTime, Interval, LargeBinary, Text, bindparam, delete, func
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlmodel import col

from models.rules.triggers import Waiting, properties_match
from models.tables.events import Event
from models.tables.execution import Instance, Step
from models.tables.projections import EventWait
from models.temporal.execution import ConditionResult, RecordedEvent, SleepResult, WaitRequest, WaitResult
from models.temporal.starting import EXIT, SEVERAL, is_exit
from models.vocabulary import WaitCondition
from privacy.encryption import DataKey, DecryptionError
from store.connection import Connection
from store.events import carts
from store.statements import one_of, select, sql, statement, unnested

logger = logging.getLogger("perennial.store")

GRACE = timedelta(hours=1)
"""An event counts if it happened up to this time before the instance's start: clocks differ, and clients round."""
CLOCK_AHEAD = timedelta(days=1)
"""The most by which an event's timestamp may exceed the time of its receipt."""
_PAGE_EVENTS = 1000
"""The most events that one statement reads from the log."""
_SPARE_EVENTS = 100
"""Events found for a wait in addition to one per ended step. A journey has fewer waits at once."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FILTER = "event_waits.property_filter"

Position = tuple[datetime, str]
"""(timestamp, event id): the order of a user's events."""


_TRIGGER_BODY = statement(
    select(col(Event.event_id), col(Event.body))
    .join(Instance, col(Instance.trigger_event_id) == col(Event.event_id))
    .where(
        col(Instance.instance_id) == bindparam("instance_id"),
        col(Event.user_id) == col(Instance.user_id),
        # With the time range Postgres skips the partitions of other months.
        col(Event.timestamp) >= col(Instance.events_from),
        col(Event.timestamp) <= col(Instance.events_since) + bindparam("clock_ahead", type_=Interval()),
    )
)


_REGISTER = statement(
    upsert(EventWait)
    .from_select(
        [
            "instance_id",
            "step",
            "workflow_id",
            "user_id",
            "event_type",
            "since",
            "not_before",
            "property_filter",
            "condition",
        ],
        select(
            col(Instance.instance_id),
            bindparam("step", type_=Text()),
            col(Instance.workflow_id),
            col(Instance.user_id),
            bindparam("event_type", type_=Text()),
            func.coalesce(col(Instance.events_since), col(Instance.start_time)),
            bindparam("not_before", type_=DateTime(timezone=True)),
            bindparam("property_filter", type_=LargeBinary()),
            bindparam("condition", type_=Text()),
        ).where(col(Instance.instance_id) == bindparam("instance_id"), col(Instance.end_time).is_(None)),
    )
    .on_conflict_do_nothing(index_elements=[col(EventWait.instance_id), col(EventWait.step)])
)


async def register(
    connection: Connection, key: DataKey, instance_id: str, asked: Mapping[str, WaitRequest]
) -> Mapping[str, WaitRequest]:
    """Register waits by their steps. They count events from the instance's start or trigger on.

    Returns the waits, with the values of ``same`` properties copied from the event that started the instance. A
    property that this event lacks is not compared. If a request started the instance, none is compared.
    """
    if any(request.same for request in asked.values()):
        asked = await _with_trigger_values(connection, key, instance_id, asked)
    for step, request in asked.items():
        await _REGISTER.execute(
            connection,
            instance_id=instance_id,
            step=step,
            event_type=request.event_type,
            not_before=request.since,
            property_filter=key.encrypt_json(_FILTER, dict(request.where) or None, instance_id, step),
            condition=request.condition,
        )
    return asked


async def _with_trigger_values(
    connection: Connection, key: DataKey, instance_id: str, asked: Mapping[str, WaitRequest]
) -> Mapping[str, WaitRequest]:
    row = await _TRIGGER_BODY.fetchrow(connection, instance_id=instance_id, clock_ahead=CLOCK_AHEAD)
    held = (_properties(key, row["event_id"], row["body"]) if row else None) or {}
    return {
        step: request.model_copy(
            update={"where": {**request.where, **{name: held[name] for name in request.same if name in held}}}
        )
        for step, request in asked.items()
    }


_DROP = statement(delete(EventWait).where(col(EventWait.instance_id) == bindparam("instance_id")))
_DROP_STEPS = statement(
    delete(EventWait).where(
        col(EventWait.instance_id) == bindparam("instance_id"),
        one_of(func.split_part(col(EventWait.step), SEVERAL, 1, type_=Text()), "steps"),
    )
)
_ENDED = unnested("ended", col(Step.step), col(Step.position), col(Step.result))
_STORE_RESULTS = statement(
    upsert(Step)
    .from_select(
        ["instance_id", "step", "position", "result"],
        select(bindparam("instance_id", type_=Text()), _ENDED.c.step, _ENDED.c.position, _ENDED.c.result),
    )
    .on_conflict_do_nothing()
)


async def drop(connection: Connection, instance_id: str) -> None:
    await _DROP.execute(connection, instance_id=instance_id)


_DROP_EXITS = statement(
    delete(EventWait).where(
        col(EventWait.instance_id) == bindparam("instance_id"), col(EventWait.step).startswith(EXIT)
    )
)


async def replace_exits(
    connection: Connection, key: DataKey, instance_id: str, exits: Mapping[str, WaitRequest]
) -> None:
    """Register exits in place of the instance's registered ones."""
    await _DROP_EXITS.execute(connection, instance_id=instance_id)
    await register(connection, key, instance_id, exits)


async def end(
    connection: Connection,
    key: DataKey,
    instance_id: str,
    ended: Mapping[str, WaitResult | SleepResult | ConditionResult],
) -> None:
    """Store the results of waits and conditions, by their steps, and drop those waits."""
    if not ended:
        return
    results = ended.values()
    await _STORE_RESULTS.execute(
        connection,
        instance_id=instance_id,
        step=list(ended),
        position=[each.position for each in results],
        result=[
            key.encrypt_json("steps.result", each.model_dump(exclude={"position"}), instance_id, step)
            for step, each in ended.items()
        ],
    )
    await _DROP_STEPS.execute(connection, instance_id=instance_id, steps=list(ended))


_WAITING = select(
    col(EventWait.workflow_id),
    col(EventWait.instance_id),
    col(EventWait.user_id),
    col(EventWait.step),
    col(EventWait.event_type),
    col(EventWait.since),
    col(EventWait.not_before),
    col(EventWait.property_filter),
    col(EventWait.condition),
    col(Instance.events_from),
    col(Instance.triggered_at),
    col(Instance.trigger_event_id),
    col(Instance.purpose),
).join(Instance, col(Instance.instance_id) == col(EventWait.instance_id))
_OF_USERS = statement(_WAITING.where(one_of(col(EventWait.user_id), "user_ids")))
_OF_INSTANCE = statement(_WAITING.where(col(EventWait.instance_id) == bindparam("instance_id")))


async def of_users(connection: Connection, keys: Mapping[str, DataKey]) -> dict[str, list[Waiting]]:
    """The registered waits of users, by user id; ``keys`` has their data keys.

    A wait with a damaged filter counts no event, and is left out.
    """
    found: dict[str, list[Waiting]] = {}
    for row in await _OF_USERS.fetch(connection, user_ids=list(keys)):
        if waiting := _readable(keys[row["user_id"]], row):
            found.setdefault(row["user_id"], []).append(waiting)
    return found


async def of_instance(connection: Connection, key: DataKey, instance_id: str) -> list[Waiting]:
    return [_waiting(key, row) for row in await _OF_INSTANCE.fetch(connection, instance_id=instance_id)]


async def exit_is_due(connection: Connection, key: DataKey, instance_id: str, user_id: str) -> bool:
    """Whether the log holds an event that ends the instance. A damaged exit counts no event."""
    rows = await _OF_INSTANCE.fetch(connection, instance_id=instance_id)
    registered = [_readable(key, row) for row in rows if is_exit(row["step"])]
    exits = {each.step: each.request for each in registered if each is not None}
    return bool(exits and await already_recorded(connection, key, instance_id, user_id, exits))


def _readable(key: DataKey, row: asyncpg.Record) -> Waiting | None:
    try:
        return _waiting(key, row)
    except DecryptionError as error:
        logger.error("a wait counts no events: %s", error, extra={"instance_id": row["instance_id"]})
        return None


def _waiting(key: DataKey, row: asyncpg.Record) -> Waiting:
    where = key.decrypt_json(_FILTER, row["property_filter"], row["instance_id"], row["step"])
    return Waiting(
        row["workflow_id"],
        row["instance_id"],
        row["step"],
        WaitRequest(
            event_type=row["event_type"],
            where=where or {},
            since=row["not_before"],
            condition=row["condition"],
        ),
        since=row["since"],
        happened_from=max(row["events_from"] or row["since"] - GRACE, row["not_before"] or _EPOCH),
        triggered_at=row["triggered_at"],
        trigger_event_id=row["trigger_event_id"],
        of_service=row["purpose"] is None,
    )


async def already_recorded(
    connection: Connection, key: DataKey, instance_id: str, user_id: str, asked: Mapping[str, WaitRequest]
) -> list[RecordedEvent]:
    """The logged events that registered waits count; for each wait, oldest first.

    Each ended step of the instance may have consumed one event. So each wait gets one event per ended step and
    some more, at least one of which is unused. Pages of the user's events are read until all waits have enough or
    the log ends. The projector delivers events that commit meanwhile, since the wait is registered.
    """
    found: dict[str, list[RecordedEvent]] = {step: [] for step in asked}
    wanted = dict(asked)
    position: Position | None = _first_position(asked)
    while wanted and position is not None:
        rows = await _read_page(connection, instance_id, user_id, wanted, position)
        enough = _SPARE_EVENTS + (rows[0]["ended"] if rows else 0)
        for row in rows:
            step = row["step"]
            if step is None or len(found[step]) == enough or not _matches(key, wanted[step], row):
                continue
            found[step].append(
                RecordedEvent(
                    event_id=row["event_id"], event_type=row["event_type"], timestamp=row["timestamp"], step=step
                )
            )
        position = _next_position(rows)
        wanted = {step: request for step, request in wanted.items() if len(found[step]) < enough}
    return [
        event
        for step, request in asked.items()
        if found[step] and await condition_holds(connection, key, request.condition)
        for event in found[step]
    ]


async def condition_holds(connection: Connection, key: DataKey, condition: WaitCondition | None) -> bool:
    """Whether a wait's condition holds for the key's user now."""
    return condition is None or await carts.cart_is_empty(connection, key)


def _first_position(asked: Mapping[str, WaitRequest]) -> Position:
    """The position before all events that may count."""
    return min((request.since or _EPOCH for request in asked.values()), default=_EPOCH), ""


def _next_position(rows: Sequence[asyncpg.Record]) -> Position | None:
    """None at the end of the log."""
    if not rows or rows[-1]["place"] < _PAGE_EVENTS:
        return None
    return rows[-1]["timestamp"], rows[-1]["event_id"]


# SQL text: a join of numbered events with unnest; the SQLModel statement is twice as long. `timestamp >=` repeats
# a part of the row comparison, since Postgres prunes partitions only by the former.
_READ_PAGE = sql(
    f"""
    WITH i AS (
        SELECT coalesce(events_from, start_time - CAST(:grace AS interval)) AS happened_from,
               coalesce(events_since, start_time) AS received_from, triggered_at, trigger_event_id, purpose
        FROM instances WHERE instance_id = :instance_id AND user_id = :user_id
    ), asked AS (
        SELECT step, event_type, since, filtered
        FROM unnest(CAST(:steps AS text[]), CAST(:event_types AS text[]), CAST(:since AS timestamptz[]),
                    CAST(:filtered AS boolean[])) AS a (step, event_type, since, filtered)
    ), page AS (
        SELECT event_id, event_type, timestamp, received_at, historical, basis, body,
               row_number() OVER (ORDER BY timestamp, event_id) AS place
        FROM events
        WHERE user_id = :user_id AND timestamp >= (SELECT happened_from FROM i)
          AND timestamp >= :after AND (timestamp, event_id) > (:after, :after_id)
        ORDER BY timestamp, event_id LIMIT {_PAGE_EVENTS}
    )
    SELECT p.event_id, p.event_type, p.timestamp, p.place, a.step,
           CASE WHEN a.filtered THEN p.body END AS body,
           (SELECT count(*) FROM steps WHERE instance_id = :instance_id) AS ended
    FROM page p CROSS JOIN i LEFT JOIN asked a
      ON NOT p.historical AND (p.received_at >= i.received_from OR p.timestamp > i.triggered_at)
     AND (p.basis = 'consent' OR i.purpose IS NULL)
     AND p.event_id IS DISTINCT FROM i.trigger_event_id AND (a.since IS NULL OR p.timestamp >= a.since)
     AND (a.event_type IN ('*', p.event_type)
          OR (a.event_type LIKE '%.*' AND starts_with(p.event_type, left(a.event_type, -1))))
    WHERE a.step IS NOT NULL OR p.place = {_PAGE_EVENTS}
    ORDER BY p.place
    """
)


async def _read_page(
    connection: Connection,
    instance_id: str,
    user_id: str,
    asked: Mapping[str, WaitRequest],
    after: Position,
) -> list[asyncpg.Record]:
    """The page's events that waits count, each with the wait's step, and the last event of a full page."""
    return await _READ_PAGE.fetch(
        connection,
        instance_id=instance_id,
        user_id=user_id,
        grace=GRACE,
        steps=list(asked),
        event_types=[request.event_type for request in asked.values()],
        since=[request.since for request in asked.values()],
        filtered=[bool(request.where) for request in asked.values()],
        after=after[0],
        after_id=after[1],
    )


def _matches(key: DataKey, request: WaitRequest, row: asyncpg.Record) -> bool:
    if not request.where:
        return True
    return properties_match(request.where, _properties(key, row["event_id"], row["body"]))


def _properties(key: DataKey, event_id: str, body: bytes | None) -> dict[str, Any] | None:
    """The properties of an event; None without any, or if the event is damaged."""
    try:
        parts = key.decrypt_json("events.body", body, event_id)
    except DecryptionError:
        return None
    return (parts or {}).get("event_properties")
