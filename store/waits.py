"""Instances that wait for events: registered first, then the log is looked at (decision 8).

No wake-up is lost: the registration commits before the look, and the projector looks at registrations after the
event has committed. Whichever of the two came second sees the other; where both do, the event's id tells that
it is the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from models.messages.execution import ExitRequest, RecordedEvent, WaitRequest
from models.messages.starting import named_exits
from models.rules.triggers import properties_match, type_matches
from privacy.sealing import DataKey
from store.connection import Connection

GRACE = timedelta(hours=1)
"""How much older than the wait's beginning an event may say it is: clocks differ, and clients round."""
AHEAD = timedelta(days=1)
"""How much later than it was received an event may say it is."""
_LOOKED_AT = 1000
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
    held = (key.open_json("events.body", body) or {}).get("event_properties") or {} if body else {}
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
        INSERT INTO event_waits (instance_id, step, workflow_id, user_id, event_type, since, property_filter)
        SELECT instance_id, $2, $3, $4, $5, coalesce(events_since, start_time), $6 FROM instances
        WHERE instance_id = $1 AND end_time IS NULL
        ON CONFLICT (instance_id, step) DO NOTHING
        """,
        instance_id,
        step,
        workflow_id,
        key.subject,
        request.event_type,
        key.seal_json(_FILTER, dict(request.where) or None),
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
    where = key.open_json(_FILTER, row["property_filter"])
    return Waiting(
        row["workflow_id"],
        row["instance_id"],
        row["step"],
        WaitRequest(event_type=row["event_type"], where=where or {}),
        since=row["since"],
        happened_from=row["events_from"] or row["since"] - GRACE,
        trigger_event_id=row["trigger_event_id"],
    )


async def already_recorded(
    connection: Connection, key: DataKey, instance_id: str, user_id: str, asked: Mapping[str, WaitRequest]
) -> list[RecordedEvent]:
    """Events in the log that registered waits, by their steps, count; for each wait the oldest first.

    Looks at the latest of the user's events since the instance's start; with a property filter their bodies
    are opened.
    """
    rows = await connection.fetch(
        """
        SELECT e.event_id, e.event_type, e.timestamp, e.body
        FROM instances i
        JOIN events e ON e.user_id = i.user_id
                     AND e.timestamp >= coalesce(i.events_from, i.start_time - $3::interval)
                     AND e.received_at >= coalesce(i.events_since, i.start_time) AND NOT e.historical
                     AND e.event_id IS DISTINCT FROM i.trigger_event_id
        WHERE i.instance_id = $1 AND i.user_id = $2
        ORDER BY e.timestamp DESC LIMIT $4
        """,
        instance_id,
        user_id,
        GRACE,
        _LOOKED_AT,
    )
    return [event for step, request in asked.items() for event in _matching(key, step, request, rows[::-1])]


def _matching(
    key: DataKey, step: str, request: WaitRequest, rows: Sequence[asyncpg.Record]
) -> list[RecordedEvent]:
    found = []
    for row in rows:
        if not type_matches(request.event_type, row["event_type"]):
            continue
        if request.since is not None and row["timestamp"] < request.since:
            continue
        if request.where:
            body = key.open_json("events.body", row["body"])
            if not properties_match(request.where, body.get("event_properties")):
                continue
        found.append(
            RecordedEvent(
                event_id=row["event_id"], event_type=row["event_type"], timestamp=row["timestamp"], step=step
            )
        )
    return found
