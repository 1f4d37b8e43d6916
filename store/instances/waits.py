"""Instances that wait for events: registered first, then the log is looked at (decision 8).

No wake-up is lost: the registration commits before the look, and the projector looks at registrations after the
event has committed. Whichever of the two came second sees the other; where both do, the event's id tells that
it is the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from models.rules.triggers import properties_match, type_matches
from models.temporal.execution import ExitRequest, RecordedEvent, WaitRequest
from models.temporal.starting import named_exits
from privacy.encryption import DataKey
from store.connection import Connection

GRACE = timedelta(hours=1)
"""How much older than the wait's beginning an event may say it is: clocks differ, and clients round."""
AHEAD = timedelta(days=1)
"""How much later than it was received an event may say it is."""
_LOOKED_AT = 1000
"""How many events a statement passes that looks for some in the log."""
_SPARE = 100
"""How many events a wait is told of beside those that the waits which have ended may have taken: more than a
journey has waits at once."""
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_FILTER = "event_waits.property_filter"


@dataclass(frozen=True)
class Waiting:
    """A registered wait."""

    workflow_id: str
    instance_id: str
    step: str
    request: WaitRequest
    since: datetime
    """Events received from then on count."""
    happened_from: datetime
    """Events that happened from then on count."""
    trigger_event_id: str | None
    """The event that has started the instance counts for none of its waits."""

    def counts(self, event_id: str, event_type: str, timestamp: datetime, received_at: datetime) -> bool:
        """Whether an event may end the wait; its properties are another question."""
        return (
            received_at >= self.since
            and timestamp >= self.happened_from
            and event_id != self.trigger_event_id
            and type_matches(self.request.event_type, event_type)
        )


async def resolved(
    connection: Connection, key: DataKey, instance_id: str, asked: Mapping[str, WaitRequest]
) -> dict[str, WaitRequest]:
    """Waits with what must be the same as in the event that started the instance, the key's person's, filled in. A
    property that it hasn't is not asked for, and none is where a request has started the instance."""
    if not any(request.same for request in asked.values()):
        return dict(asked)
    body = await connection.fetchval(
        """
        SELECT e.body FROM instances i
        JOIN events e ON e.event_id = i.trigger_event_id AND e.user_id = i.user_id
                     AND e.timestamp BETWEEN i.events_from AND i.events_since + $2::interval
        WHERE i.instance_id = $1
        """,
        instance_id,
        AHEAD,
    )
    held = (key.decrypt_json("events.body", body) or {}).get("event_properties") or {} if body else {}
    return {
        step: request.model_copy(
            update={"where": {**request.where, **{name: held[name] for name in request.same if name in held}}}
        )
        for step, request in asked.items()
    }


async def register(
    connection: Connection, key: DataKey, workflow_id: str, instance_id: str, step: str, request: WaitRequest
) -> None:
    """Register a wait of the key's person; it counts events that are received from the instance's start on."""
    await connection.execute(
        """
        INSERT INTO event_waits
            (instance_id, step, workflow_id, user_id, event_type, since, not_before, property_filter)
        SELECT instance_id, $2, $3, $4, $5, coalesce(events_since, start_time), $6, $7 FROM instances
        WHERE instance_id = $1 AND end_time IS NULL
        ON CONFLICT (instance_id, step) DO NOTHING
        """,
        instance_id,
        step,
        workflow_id,
        key.subject,
        request.event_type,
        request.since,
        key.encrypt_json(_FILTER, dict(request.where) or None),
    )


async def register_exits(
    connection: Connection, key: DataKey, workflow_id: str, instance_id: str, exits: Sequence[ExitRequest]
) -> None:
    """Register what ends an instance early, in the transaction that stores it: it is told from its start on."""
    for step, request in (await resolved(connection, key, instance_id, named_exits(exits))).items():
        await register(connection, key, workflow_id, instance_id, step, request)


async def forget(connection: Connection, instance_id: str, steps: Collection[str] | None) -> None:
    """Drop waits that have ended; all of an instance's where ``steps`` is None."""
    await connection.execute(
        "DELETE FROM event_waits WHERE instance_id = $1 AND ($2::text[] IS NULL OR step = ANY($2))",
        instance_id,
        None if steps is None else list(steps),
    )


async def of_users(connection: Connection, keys: Mapping[str, DataKey]) -> dict[str, list[Waiting]]:
    """The registered waits of some users, whose keys these are."""
    rows = await connection.fetch(f"{_WAITING} WHERE w.user_id = ANY($1::text[])", list(keys))
    found: dict[str, list[Waiting]] = {}
    for row in rows:
        found.setdefault(row["user_id"], []).append(_waiting(keys[row["user_id"]], row))
    return found


async def of_instance(connection: Connection, key: DataKey, instance_id: str) -> list[Waiting]:
    """The registered waits of one instance, whose person's key this is."""
    rows = await connection.fetch(f"{_WAITING} WHERE w.instance_id = $1", instance_id)
    return [_waiting(key, row) for row in rows]


_WAITING = "SELECT w.*, i.events_from, i.trigger_event_id FROM event_waits w JOIN instances i USING (instance_id)"


def _waiting(key: DataKey, row: asyncpg.Record) -> Waiting:
    where = key.decrypt_json(_FILTER, row["property_filter"])
    return Waiting(
        row["workflow_id"],
        row["instance_id"],
        row["step"],
        WaitRequest(event_type=row["event_type"], where=where or {}, since=row["not_before"]),
        since=row["since"],
        happened_from=max(row["events_from"] or row["since"] - GRACE, row["not_before"] or _EVER),
        trigger_event_id=row["trigger_event_id"],
    )


async def already_recorded(
    connection: Connection, key: DataKey, instance_id: str, user_id: str, asked: Mapping[str, WaitRequest]
) -> list[RecordedEvent]:
    """Events in the log that registered waits, by their steps, count; for each wait the oldest first.

    Of each so many that one is left for it whatever the instance's other waits have taken, each of which takes one
    at most. The user's events since the instance's start are passed, a bounded number by a statement, until all
    waits have theirs or the log ends; what commits behind the walk finds the waits registered. Bodies are read
    where properties are asked for.
    """
    found: dict[str, list[RecordedEvent]] = {step: [] for step in asked}
    wanted = dict(asked)
    passed: tuple[datetime, str] | None = _before_all(asked)
    while wanted and passed is not None:
        rows = await _look(connection, instance_id, user_id, wanted, passed)
        enough = _SPARE + (rows[0]["ended"] if rows else 0)
        for row in rows:
            step = row["step"]
            if step is None or len(found[step]) == enough or not _has_asked(key, wanted[step], row["body"]):
                continue
            found[step].append(
                RecordedEvent(
                    event_id=row["event_id"], event_type=row["event_type"], timestamp=row["timestamp"], step=step
                )
            )
        passed = _end_of(rows)
        wanted = {step: request for step, request in wanted.items() if len(found[step]) < enough}
    return [event for step in asked for event in found[step]]


def _before_all(asked: Mapping[str, WaitRequest]) -> tuple[datetime, str]:
    """A place in the order of the user's events that nothing asked for comes before."""
    return min((request.since or _EVER for request in asked.values()), default=_EVER), ""


def _end_of(rows: Sequence[asyncpg.Record]) -> tuple[datetime, str] | None:
    """Where to go on; None where the log has no more."""
    if not rows or rows[-1]["place"] < _LOOKED_AT:
        return None
    return rows[-1]["timestamp"], rows[-1]["event_id"]


_LOOK = """
    WITH i AS (
        SELECT coalesce(events_from, start_time - $3::interval) AS happened_from,
               coalesce(events_since, start_time) AS received_from, trigger_event_id
        FROM instances WHERE instance_id = $1 AND user_id = $2
    ), asked AS (
        SELECT * FROM unnest($4::text[], $5::text[], $6::timestamptz[], $7::boolean[])
                 AS a (step, event_type, since, filtered)
    ), looked AS (
        SELECT event_id, event_type, timestamp, received_at, historical, body,
               row_number() OVER (ORDER BY timestamp, event_id) AS place
        FROM events
        WHERE user_id = $2 AND timestamp >= (SELECT happened_from FROM i)
          AND timestamp >= $8 AND (timestamp, event_id) > ($8, $9)
        ORDER BY timestamp, event_id LIMIT $10
    )
    SELECT l.event_id, l.event_type, l.timestamp, l.place, a.step,
           CASE WHEN a.filtered THEN l.body END AS body,
           (SELECT count(*) FROM steps WHERE instance_id = $1) AS ended
    FROM looked l CROSS JOIN i LEFT JOIN asked a
      ON NOT l.historical AND l.received_at >= i.received_from
     AND l.event_id IS DISTINCT FROM i.trigger_event_id AND (a.since IS NULL OR l.timestamp >= a.since)
     AND (a.event_type IN ('*', l.event_type)
          OR (a.event_type LIKE '%.*' AND starts_with(l.event_type, left(a.event_type, -1))))
    WHERE a.step IS NOT NULL OR l.place = $10
    ORDER BY l.place
"""
"""A page of a person's events in their order, each with the waits that count it."""


async def _look(
    connection: Connection,
    instance_id: str,
    user_id: str,
    asked: Mapping[str, WaitRequest],
    after: tuple[datetime, str],
) -> list[asyncpg.Record]:
    """Those of the user's next events that waits count, each with the wait's step; and the last one looked at."""
    return await connection.fetch(
        _LOOK,
        instance_id,
        user_id,
        GRACE,
        list(asked),
        [request.event_type for request in asked.values()],
        [request.since for request in asked.values()],
        [bool(request.where) for request in asked.values()],
        *after,
        _LOOKED_AT,
    )


def _has_asked(key: DataKey, request: WaitRequest, body: bytes | None) -> bool:
    if not request.where:
        return True
    return properties_match(request.where, (key.decrypt_json("events.body", body) or {}).get("event_properties"))
