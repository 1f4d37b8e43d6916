"""How long each type of data is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from models.errors import DataTypeNotFoundError, FieldError, InvalidContentError
from models.rules.retention import DATA_TYPES, cutoff
from store.connection import Connection


@dataclass(frozen=True)
class Retention:
    """How many days a type of data is kept, None without a period; without a time where the default holds."""

    data_type: str
    days: int | None
    changed_at: datetime | None = None
    changed_by: str | None = None

    def older_than(self, now: datetime) -> datetime | None:
        """Before which time data goes; None where there is no period."""
        return None if self.days is None else cutoff(now, self.days)


def require(data_type: str) -> None:
    """Raise :class:`DataTypeNotFoundError` unless the type of data has a retention."""
    if data_type not in DATA_TYPES:
        raise DataTypeNotFoundError


async def find(connection: Connection, data_type: str) -> Retention:
    """The retention of a type of data; raises :class:`DataTypeNotFoundError`."""
    require(data_type)
    row = await connection.fetchrow("SELECT * FROM retention_periods WHERE data_type = $1", data_type)
    return Retention(data_type, DATA_TYPES[data_type].default_days) if row is None else Retention(**row)


async def find_all(connection: Connection) -> list[Retention]:
    """The retentions of all types of data, in the order of their declaration."""
    rows = await connection.fetch("SELECT * FROM retention_periods")
    said = {row["data_type"]: Retention(**row) for row in rows}
    return [said.get(name, Retention(name, each.default_days)) for name, each in DATA_TYPES.items()]


async def days_of(connection: Connection, data_type: str) -> int:
    """How many days a type of data is kept that always has a period."""
    days = (await find(connection, data_type)).days
    assert days is not None  # change() refuses it
    return days


async def change(connection: Connection, data_type: str, days: int | None, *, actor: str) -> Retention:
    """Set a retention; ``actor`` is the id of the API key. Nothing is deleted by it, until the next run.

    Raises :class:`DataTypeNotFoundError`, and :class:`InvalidContentError` where the type needs a period.
    """
    require(data_type)
    if days is None and not DATA_TYPES[data_type].unlimited:
        raise InvalidContentError(
            [FieldError("/days", "period_required", "must be a number: this type needs a period")]
        )
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


def still_expired(policy: Retention, older_than: datetime) -> datetime | None:
    """How far a sweep that began with a cutoff may go under the period as it stands now; None: nowhere.

    So a period that was lengthened or taken away in the meantime holds for the very next batch.
    """
    now = policy.older_than(datetime.now(UTC))
    return None if now is None else min(older_than, now)
