"""Finds the stored events of a user that weigh most in the engagement score."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, func
from sqlmodel import col

from models.rules.engagement import action_weight, contribution
from models.rules.folding import WORKFLOW_SESSION
from models.tables.events import Event
from models.vocabulary import Basis
from store.connection import Connection
from store.statements import select, statement

LATEST = 2000
"""The most events that one search reads, by the index of a user's events."""
HEAVIEST = 10


@dataclass(frozen=True)
class WeighedEvent:
    event_id: str
    event_type: str
    timestamp: datetime
    weight: int
    contribution: float
    """To the decayed count of actions, at the time of the search."""


_LATEST = statement(
    select(col(Event.event_id), col(Event.event_type), col(Event.timestamp))
    .where(
        col(Event.user_id) == bindparam("user_id"),
        ~func.starts_with(col(Event.session_id), WORKFLOW_SESSION),
        col(Event.basis) == Basis.CONSENT.value,
    )
    .order_by(col(Event.timestamp).desc(), col(Event.event_id).desc())
    .limit(bindparam("limit"))
)


async def heaviest(connection: Connection, user_id: str, now: datetime) -> list[WeighedEvent]:
    """Of the latest :data:`LATEST` events the ones that contribute most, the largest first."""
    rows = await _LATEST.fetch(connection, user_id=user_id, limit=LATEST)
    weighed = (
        WeighedEvent(event_id, event_type, timestamp, weight, contribution(event_type, timestamp, now))
        for event_id, event_type, timestamp in rows
        if (weight := action_weight(event_type))
    )
    return heapq.nlargest(HEAVIEST, weighed, key=lambda each: (each.contribution, each.event_id))
