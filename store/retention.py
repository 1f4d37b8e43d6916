"""How long each type of data is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from store.connection import Connection

EVENTS = "events"
DEFAULT_DAYS: Mapping[str, int] = {EVENTS: 365, "audit": 730}
"""By type of data, where nobody has said otherwise."""


@dataclass(frozen=True)
class Retention:
    """How many days a type of data is kept; without a time where the default holds."""

    data_type: str
    days: int
    changed_at: datetime | None = None
    changed_by: str | None = None


async def find(connection: Connection, data_type: str) -> Retention:
    """The retention of a type of data that :data:`DEFAULT_DAYS` names."""
    row = await connection.fetchrow("SELECT * FROM retention_periods WHERE data_type = $1", data_type)
    return Retention(data_type, DEFAULT_DAYS[data_type]) if row is None else Retention(**row)


async def change(connection: Connection, data_type: str, days: int, *, actor: str) -> Retention:
    """Set a retention; ``actor`` is the id of the API key. Nothing is deleted by it."""
    row = await connection.fetchrow(
        """INSERT INTO retention_periods (data_type, days, changed_by) VALUES ($1, $2, $3)
           ON CONFLICT (data_type) DO UPDATE SET days = excluded.days, changed_by = excluded.changed_by,
                                                 changed_at = now()
           RETURNING *""",
        data_type,
        days,
        actor,
    )
    assert row is not None  # RETURNING gives the row
    return Retention(**row)
