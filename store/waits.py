"""Instances that wait for events: registered first, then the log is looked at (decision 8).

No wake-up is lost: the registration commits before the look, and the projector looks at registrations after the
event has committed. Whichever of the two came second sees the other; where both do, the event's id tells that
it is the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg

from models.messages.execution import RecordedEvent, WaitRequest
from models.rules.triggers import properties_match, type_matches
from privacy.sealing import DataKey
from store.connection import Connection

GRACE = timedelta(hours=1)
"""How much older than the wait's beginning an event may say it is: clocks differ, and clients round."""
_LOOKED_AT = 1000


@dataclass(frozen=True)
class Waiting:
    """A registered wait."""

    workflow_id: str
    instance_id: str
    step: str
    request: WaitRequest


async def register(
    connection: Connection, workflow_id: str, instance_id: str, user_id: str, step: str, request: WaitRequest
) -> None:
    """Register a wait; it counts events that are received from the instance's start on."""
    await connection.execute(
        """
        INSERT INTO event_waits (instance_id, step, workflow_id, user_id, event_type, since, property_filter)
        SELECT instance_id, $2, $3, $4, $5, start_time, $6 FROM instances
        WHERE instance_id = $1 AND end_time IS NULL
        ON CONFLICT (instance_id, step) DO NOTHING
        """,
        instance_id,
        step,
        workflow_id,
        user_id,
        request.event_type,
        dict(request.where) or None,
    )


async def forget(connection: Connection, instance_id: str, steps: Collection[str] | None) -> None:
    """Drop waits that have ended; all of an instance's where ``steps`` is None."""
    await connection.execute(
        "DELETE FROM event_waits WHERE instance_id = $1 AND ($2::text[] IS NULL OR step = ANY($2))",
        instance_id,
        None if steps is None else list(steps),
    )


async def of_users(connection: Connection, user_ids: Collection[str]) -> dict[str, list[tuple[Waiting, Any]]]:
    """The registered waits of some users, each with the time from which events count."""
    rows = await connection.fetch("SELECT * FROM event_waits WHERE user_id = ANY($1::text[])", list(user_ids))
    found: dict[str, list[tuple[Waiting, Any]]] = {}
    for row in rows:
        found.setdefault(row["user_id"], []).append((_waiting(row), row["since"]))
    return found


async def of_instance(connection: Connection, instance_id: str) -> list[Waiting]:
    """The registered waits of one instance."""
    rows = await connection.fetch("SELECT * FROM event_waits WHERE instance_id = $1", instance_id)
    return [_waiting(row) for row in rows]


def _waiting(row: asyncpg.Record) -> Waiting:
    request = WaitRequest(event_type=row["event_type"], where=row["property_filter"] or {})
    return Waiting(row["workflow_id"], row["instance_id"], row["step"], request)


async def already_recorded(
    connection: Connection, key: DataKey, instance_id: str, user_id: str, step: str, request: WaitRequest
) -> list[RecordedEvent]:
    """Events in the log that a registered wait counts, oldest first.

    Looks at the latest of the user's events since the instance's start; with a property filter their bodies
    are opened.
    """
    rows = await connection.fetch(
        """
        SELECT e.event_id, e.event_type, e.timestamp, e.body
        FROM instances i
        JOIN events e ON e.user_id = i.user_id AND e.timestamp >= i.start_time - $3::interval
                     AND e.received_at >= i.start_time AND NOT e.historical
        WHERE i.instance_id = $1 AND i.user_id = $2
        ORDER BY e.timestamp DESC LIMIT $4
        """,
        instance_id,
        user_id,
        GRACE,
        _LOOKED_AT,
    )
    return _matching(key, step, request, rows[::-1])


def _matching(
    key: DataKey, step: str, request: WaitRequest, rows: Sequence[asyncpg.Record]
) -> list[RecordedEvent]:
    found = []
    for row in rows:
        if not type_matches(request.event_type, row["event_type"]):
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
