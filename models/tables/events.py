"""The event log, the ids that identify events, event types, and where consumers stand."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, SmallInteger, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import UserDefinedType
from sqlmodel import Field, SQLModel

from models.personal import Mask, personal
from models.tables.columns import as_asked, as_written, moment, now, words


class Xid8(UserDefinedType[int]):
    """Postgres' 64-bit transaction id, which is never reused within a cluster."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Its name in DDL."""
        return "xid8"


class Event(SQLModel, table=True):
    """The log: partitioned by month of ``timestamp``, read by consumers in (generation, xid, sequence) order.

    A row is visible to a consumer once every transaction below its ``xid`` has ended: an event whose
    transaction commits late, under a lower sequence, is never skipped.
    """

    __tablename__ = "events"
    __table_args__ = (
        Index("events_in_log_order", "shard", "generation", "xid", "sequence"),
        Index("events_of_user", "user_id", "timestamp", "event_id"),
        {"postgresql_partition_by": "RANGE (timestamp)"},
    )
    __mapper_args__ = {"primary_key": ["event_id", "timestamp"]}

    event_id: str = words()
    user_id: str = words()
    event_type: str = words()
    timestamp: datetime = moment()
    session_id: str = words()
    shard: int = Field(sa_column=Column(SmallInteger, nullable=False))
    generation: int = Field(sa_column=Column(Integer, nullable=False))
    xid: int = Field(
        default=None, sa_column=Column(Xid8, nullable=False, server_default=text("pg_current_xact_id()"))
    )
    sequence: int = Field(
        default=None,
        sa_column=Column(BigInteger, nullable=False, server_default=text("nextval('events_sequence')")),
    )
    historical: bool = Field(sa_column=Column(Boolean, nullable=False))
    body: bytes | None = personal(Mask.EVENT, nullable=False)
    """event_properties, device_info, location and referrer as one encrypted JSON object."""
    dimensions: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB))
    """What the event type declares as dimensions, and the standard non-personal fields, for analytics."""
    received_at: datetime = as_asked()
    """When its batch was written, which is after its person's consent was read."""


class EventId(SQLModel, table=True):
    """Identity of events: an id is taken here in the transaction that stores the event."""

    __tablename__ = "event_ids"
    __table_args__ = (Index("event_ids_by_time", "timestamp"),)

    event_id: str = words(primary_key=True)
    fingerprint: int = Field(sa_column=Column(BigInteger, nullable=False))
    """64 bits of a digest of (user_id, event_type): the same id with others is a conflict."""
    timestamp: datetime = moment()


class EventType(SQLModel, table=True):
    """A custom event type that an admin has declared; the standard ones are in code."""

    __tablename__ = "event_types"

    event_type: str = words(primary_key=True)
    description: str = words()
    json_schema: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    pii: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    """JSON pointers into event_properties that hold personal data."""
    dimensions: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    changed_at: datetime = now()


class LogGeneration(SQLModel, table=True):
    """One row: raised after a logical restore, where transaction ids start lower than what the log holds."""

    __tablename__ = "log_generation"

    only: bool = Field(sa_column=Column(Boolean, primary_key=True, server_default=text("true")))
    generation: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("1")))
    highest_xid: int = Field(sa_column=Column(Xid8, nullable=False, server_default=text("'0'")))
    """The highest transaction id that a migrate or start has seen in this generation."""


class LogCursor(SQLModel, table=True):
    """How far a consumer has come in one shard; moved by compare-and-set in the transaction of the effects."""

    __tablename__ = "log_cursors"

    consumer: str = words(primary_key=True)
    shard: int = Field(sa_column=Column(SmallInteger, primary_key=True))
    generation: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("0")))
    xid: int = Field(sa_column=Column(Xid8, nullable=False, server_default=text("'0'")))
    sequence: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    moved_at: datetime = now()


class PoisonEvent(SQLModel, table=True):
    """An event that a consumer could not take after several tries: set aside, so that its shard goes on."""

    __tablename__ = "poison_events"
    __table_args__ = (Index("poison_events_by_status", "status", "set_aside_at"),)

    poison_id: str = words(primary_key=True)
    consumer: str = words()
    event_id: str = words()
    user_id: str = words()
    timestamp: datetime = moment()
    """The event's, which names its partition."""
    tries: int = Field(sa_column=Column(Integer, nullable=False))
    error_type: str = words()
    status: str = words()
    """`open`, `replayed` or `discarded`."""
    set_aside_at: datetime = now()


class Redaction(SQLModel, table=True):
    """A person who opted out of an attribute, and whose stored events still may have it."""

    __tablename__ = "redactions"
    __table_args__ = (Index("redactions_by_due_at", "due_at"),)

    user_id: str = words(primary_key=True)
    token: UUID = Field(
        default=None, sa_column=Column(Uuid, nullable=False, server_default=text("gen_random_uuid()"))
    )
    """Renewed by each opt-out: a worker that began with an earlier token can't move or end the redaction."""
    requested_at: datetime = as_written()
    due_at: datetime = as_written()
    after_timestamp: datetime | None = moment(nullable=True)
    """With ``after_event_id``, the last event that was redacted; NULL: none yet."""
    after_event_id: str | None = words(nullable=True)
    events_changed: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
