"""Reads stored events: those of a user, newest first, and one by its id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from asyncpg import Record
from sqlalchemy import BigInteger, ColumnElement, Text, bindparam, func, literal_column, or_, true, tuple_
from sqlmodel import col

from models.errors import EventNotFoundError, UserErasedError, UserNotFoundError
from models.rules.sharding import SHARDS
from models.tables.events import Event, EventId, LogGeneration
from models.tables.people import DataKey as DataKeyRow
from models.tables.people import User
from privacy.encryption import Cipher, DataKey
from store.connection import Connection
from store.events.events import BODY
from store.pages import readable_page
from store.statements import Statement, one_of, select, statement

_FIRST_TIME, _LAST_TIME = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True)
class StoredEvent:
    """A stored event, decrypted."""

    event_id: str
    user_id: str
    event_type: str
    timestamp: datetime
    session_id: str
    historical: bool
    received_at: datetime
    basis: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class EventFilter:
    """Conditions on events, joined with AND. ``since`` is inclusive, ``until`` is not."""

    event_type: str | None = None
    """A type or a category (`engagement.*`)."""
    since: datetime | None = None
    until: datetime | None = None


_FIELDS: list[Any] = [
    col(Event.event_id),
    col(Event.event_type),
    col(Event.timestamp),
    col(Event.session_id),
    col(Event.historical),
    col(Event.received_at),
    col(Event.basis),
    col(Event.body),
]
_TYPE = bindparam("event_type", type_=Text)
_CATEGORY = bindparam("category", type_=Text)


def _list_of_user(*conditions: ColumnElement[bool]) -> Statement:
    page = (
        select(*_FIELDS)
        .where(
            col(Event.user_id) == col(DataKeyRow.subject),
            col(DataKeyRow.wrapped).is_not(None),
            # Without these two filters the caller gives the widest bounds.
            col(Event.timestamp) >= bindparam("since"),
            col(Event.timestamp) < bindparam("until"),
            or_(_TYPE.is_(None), col(Event.event_type) == _TYPE),
            or_(_CATEGORY.is_(None), func.starts_with(col(Event.event_type), _CATEGORY)),
            *conditions,
        )
        .order_by(col(Event.timestamp).desc(), col(Event.event_id).desc())
        .limit(bindparam("limit"))
        .correlate(DataKeyRow)
        .lateral("page")
    )
    return statement(
        select(col(DataKeyRow.wrapped), col(User.user_id).is_not(None).label("present"), *page.c)
        .select_from(DataKeyRow)
        .outerjoin(User, col(User.user_id) == col(DataKeyRow.subject))
        .outerjoin(page, true())
        .where(col(DataKeyRow.subject) == bindparam("user_id"))
    )


_FIRST_PAGE = _list_of_user()
_NEXT_PAGE = _list_of_user(
    tuple_(col(Event.timestamp), col(Event.event_id)) < tuple_(bindparam("timestamp"), bindparam("event_id"))
)


async def list_of_user(
    connection: Connection,
    cipher: Cipher,
    user_id: str,
    wanted: EventFilter,
    *,
    limit: int,
    before: tuple[datetime, str] | None,
) -> list[StoredEvent]:
    """Up to ``limit`` events of a user, newest first, before a (timestamp, event id), without damaged ones.

    Raises :class:`DecryptionError` for a damaged data key, :class:`UserNotFoundError` or :class:`UserErasedError`.
    """
    key: DataKey | None = None
    of_category = wanted.event_type is not None and wanted.event_type.endswith(".*")
    filters = {
        "event_type": None if of_category else wanted.event_type,
        "category": wanted.event_type[:-1] if wanted.event_type is not None and of_category else None,
        "since": wanted.since or _FIRST_TIME,
        "until": wanted.until or _LAST_TIME,
    }

    async def read(place: tuple[datetime, str] | None, number: int) -> list[Record]:
        nonlocal key
        if place is None:
            rows = await _FIRST_PAGE.fetch(connection, user_id=user_id, limit=number, **filters)
        else:
            rows = await _NEXT_PAGE.fetch(
                connection, user_id=user_id, limit=number, timestamp=place[0], event_id=place[1], **filters
            )
        if not rows or (rows[0]["wrapped"] is not None and not rows[0]["present"]):
            raise UserNotFoundError
        if rows[0]["wrapped"] is None:
            raise UserErasedError
        key = key or cipher.unwrap(user_id, rows[0]["wrapped"])
        return [row for row in rows if row["event_id"] is not None]

    def stored(row: Record) -> StoredEvent:
        assert key is not None  # ``read`` has found it
        return _stored(row, user_id, key)

    return await readable_page(
        read, stored, lambda row: (row["timestamp"], row["event_id"]), after=before, limit=limit
    )


# `xmin` is the id of the transaction that inserted the row, without its epoch. It also inserted the event.
_FIND_ID = statement(
    select(
        col(EventId.timestamp),
        literal_column("event_ids.xmin::text::bigint", BigInteger).label("xmin"),
        literal_column("pg_snapshot_xmax(pg_current_snapshot())::text::bigint", BigInteger).label("next_xid"),
        func.coalesce(select(col(LogGeneration.generation)).scalar_subquery(), 1).label("generation"),
    ).where(col(EventId.event_id) == bindparam("event_id"))
)
_EVENT = (
    select(col(Event.user_id), col(DataKeyRow.wrapped), *_FIELDS)
    .join(DataKeyRow, col(DataKeyRow.subject) == col(Event.user_id))
    .where(col(Event.timestamp) == bindparam("timestamp"), col(Event.event_id) == bindparam("event_id"))
)
_FIND_IN_LOG = statement(
    _EVENT.where(
        one_of(col(Event.shard), "shards"),
        one_of(col(Event.generation), "generations"),
        one_of(col(Event.xid), "xids"),
    )
)
_FIND_IN_PARTITION = statement(_EVENT)
_EPOCH = 32
"""Bits of a transaction id below its epoch."""


async def find(connection: Connection, cipher: Cipher, event_id: str) -> StoredEvent:
    """One event. Raises :class:`EventNotFoundError`, :class:`UserErasedError` or :class:`DecryptionError`.

    No index of the log begins with an event's id, since every index costs ingest. The row of ``event_ids`` has the
    timestamp, which selects the partition, and the transaction, which selects few rows of an index. A logical
    restore writes the row in another transaction; then Postgres reads the partition.
    """
    place = await _FIND_ID.fetchrow(connection, event_id=event_id)
    if place is None:
        raise EventNotFoundError
    this = {"timestamp": place["timestamp"], "event_id": event_id}
    row = await _FIND_IN_LOG.fetchrow(
        connection,
        shards=list(range(SHARDS)),
        generations=list(range(1, place["generation"] + 1)),
        xids=[(epoch << _EPOCH) + place["xmin"] for epoch in range((place["next_xid"] >> _EPOCH) + 1)],
        **this,
    )
    row = row or await _FIND_IN_PARTITION.fetchrow(connection, **this)
    if row is None:
        raise EventNotFoundError
    if row["wrapped"] is None:
        raise UserErasedError
    return _stored(row, row["user_id"], cipher.unwrap(row["user_id"], row["wrapped"]))


def _stored(row: Record, user_id: str, key: DataKey) -> StoredEvent:
    return StoredEvent(
        event_id=row["event_id"],
        user_id=user_id,
        event_type=row["event_type"],
        timestamp=row["timestamp"],
        session_id=row["session_id"],
        historical=row["historical"],
        received_at=row["received_at"],
        basis=row["basis"],
        body=key.decrypt_json(BODY, row["body"], row["event_id"]),
    )
