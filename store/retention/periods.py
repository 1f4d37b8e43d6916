"""How long each data type is kept."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, func
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.errors import DataTypeNotFoundError, FieldError, InvalidContentError
from models.rules.retention import AUDIT, DATA_TYPES, cutoff
from models.tables.retention import RetentionPeriod
from privacy.audit_chain import CheckpointKey
from store.connection import Connection
from store.statements import parameters, select, statement


@dataclass(frozen=True)
class Retention:
    """The period of a data type. ``days`` None: unlimited. ``changed_at`` and ``changed_by`` None: the default."""

    data_type: str
    days: int | None
    changed_at: datetime | None = None
    changed_by: str | None = None

    def older_than(self, now: datetime) -> datetime | None:
        """The time before which data expires; None without a period."""
        return None if self.days is None else cutoff(now, self.days)


_COLUMNS = (
    *(col(RetentionPeriod.data_type), col(RetentionPeriod.days)),
    *(col(RetentionPeriod.changed_at), col(RetentionPeriod.changed_by)),
)
_FIND = statement(select(*_COLUMNS).where(col(RetentionPeriod.data_type) == bindparam("data_type")))
_FIND_ALL = statement(select(*_COLUMNS))
_insert = insert(RetentionPeriod).values(parameters("data_type", "days", "changed_by", "seal"))
_CHANGE = statement(
    _insert.on_conflict_do_update(
        index_elements=["data_type"],
        set_={
            **{name: _insert.excluded[name] for name in ("days", "changed_by", "seal")},
            "changed_at": func.now(),
        },
    ).returning(*_COLUMNS)
)


def require(data_type: str) -> None:
    """Raise :class:`DataTypeNotFoundError` for an unknown data type."""
    if data_type not in DATA_TYPES:
        raise DataTypeNotFoundError


async def find(connection: Connection, data_type: str) -> Retention:
    """Raises :class:`DataTypeNotFoundError`."""
    require(data_type)
    row = await _FIND.fetchrow(connection, data_type=data_type)
    return Retention(data_type, DATA_TYPES[data_type].default_days) if row is None else Retention(**row)


async def find_all(connection: Connection) -> list[Retention]:
    """The retention of all data types, in the order of their declaration."""
    changed = {row["data_type"]: Retention(**row) for row in await _FIND_ALL.fetch(connection)}
    return [changed.get(name, Retention(name, each.default_days)) for name, each in DATA_TYPES.items()]


async def days_of(connection: Connection, data_type: str) -> int:
    """The days of a data type whose period can't be unlimited."""
    days = (await find(connection, data_type)).days
    assert days is not None  # change() rejects None for these types
    return days


_SEAL = statement(select(col(RetentionPeriod.seal)).where(col(RetentionPeriod.data_type) == AUDIT))


async def audit_days(connection: Connection, key: CheckpointKey) -> int:
    """The period of the audit log. Without the key's seal it can only be longer than the default."""
    days, default = await days_of(connection, AUDIT), DATA_TYPES[AUDIT].default_days
    seal: bytes | None = await _SEAL.fetchval(connection)
    assert default is not None
    return days if seal is not None and hmac.compare_digest(seal, key.seal(days)) else max(days, default)


async def change(
    connection: Connection, data_type: str, days: int | None, *, actor: str, seal: bytes | None = None
) -> Retention:
    """Set a period, which the next run applies; ``actor`` is the id of an API key.

    ``seal`` is needed for a period of the audit log that is shorter than the default.

    Raises :class:`DataTypeNotFoundError`, and :class:`InvalidContentError` if the type needs a period.
    """
    require(data_type)
    if days is None and not DATA_TYPES[data_type].unlimited:
        raise InvalidContentError(
            [FieldError("/days", "period_required", "must be a number: this type needs a period")]
        )
    row = await _CHANGE.fetchrow(connection, data_type=data_type, days=days, changed_by=actor, seal=seal)
    assert row is not None  # RETURNING
    return Retention(**row)
