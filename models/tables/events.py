"""The event log, event ids, event types, and the consumers' cursors."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, SmallInteger, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import UserDefinedType
from sqlmodel import Field, SQLModel

from models.personal import Mask, personal
from models.tables.columns import row_time, statement_time, text_column, time_column, transaction_time
from models.vocabulary import Basis


class Xid8(UserDefinedType[int]):
    """Postgres' 64-bit transaction id. A cluster never reuses one."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"


class Event(SQLModel, table=True):
    """The event log, partitioned by month of ``timestamp``.

    Consumers read in the order (generation, xid, sequence). They read a row only after every transaction with a
    lower ``xid`` has ended. So they never skip an event with a lower sequence that commits later.
    """

    __tablename__ = "events"
    __table_args__ = (
        Index("events_in_log_order", "shard", "generation", "xid", "sequence"),
        Index("events_of_user", "user_id", "timestamp", "event_id"),
        {"postgresql_partition_by": "RANGE (timestamp)"},
    )
    __mapper_args__ = {"primary_key": ["event_id", "timestamp"]}

    event_id: str = text_column()
    user_id: str = text_column()
    event_type: str = text_column()
    timestamp: datetime = time_column()
    session_id: str = text_column()
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
    """A JSON object with event_properties, device_info, location and referrer."""
    dimensions: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB))
    """The type's dimensions, country and device type, for analytics."""
    received_at: datetime = statement_time()  # starts after the store has read the person's consent
    basis: str = Field(
        default=Basis.CONSENT.value, sa_column=Column(Text, nullable=False, server_default=text("'consent'"))
    )
    """`consent` if the person had consented when it was stored, else the basis of its type."""


class EventId(SQLModel, table=True):
    """Makes event ids unique across partitions. Written in the transaction that stores the event."""

    __tablename__ = "event_ids"
    __table_args__ = (Index("event_ids_by_time", "timestamp"),)

    event_id: str = text_column(primary_key=True)
    fingerprint: int = Field(sa_column=Column(BigInteger, nullable=False))
    """64 bits of a digest of (user_id, event_type). The same id with another fingerprint is a conflict."""
    timestamp: datetime = time_column()


class EventType(SQLModel, table=True):
    """A custom event type, or the basis of a standard one (:mod:`models.rules.taxonomy` has the rest of it)."""

    __tablename__ = "event_types"

    event_type: str = text_column(primary_key=True)
    description: str = text_column()
    json_schema: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    pii: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    """JSON pointers into event_properties, to personal values."""
    dimensions: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    changed_at: datetime = transaction_time()
    basis: str = Field(
        default=Basis.CONSENT.value, sa_column=Column(Text, nullable=False, server_default=text("'consent'"))
    )
    basis_reason: str | None = text_column(nullable=True)
    """Why the basis isn't the consent, in an admin's words."""
    version: int = Field(default=1, sa_column=Column(Integer, nullable=False, server_default=text("1")))


class EventTypeVersion(SQLModel, table=True):
    """A declaration as of a version of its event type. The runtime role may only insert and select."""

    __tablename__ = "event_type_versions"

    event_type: str = text_column(primary_key=True)
    version: int = Field(sa_column=Column(Integer, primary_key=True))
    """1, 2, 3, ... for each event type."""
    changed_at: datetime = time_column()
    actor: str = text_column()
    """The id of the API key, or `system:migration` for a declaration from before versions were kept."""
    description: str = text_column()
    json_schema: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    pii: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    dimensions: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False))
    basis: str = text_column()
    basis_reason: str | None = text_column(nullable=True)


class LogGeneration(SQLModel, table=True):
    """The generation of the log, in a single row.

    Raised after a logical restore into a cluster whose transaction ids are lower than those in the log.
    """

    __tablename__ = "log_generation"

    only: bool = Field(sa_column=Column(Boolean, primary_key=True, server_default=text("true")))
    generation: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("1")))
    highest_xid: int = Field(sa_column=Column(Xid8, nullable=False, server_default=text("'0'")))
    """The highest transaction id that a migration or start has read in this generation."""


class LogCursor(SQLModel, table=True):
    """A consumer's position in one shard, moved by compare-and-set in the transaction that applies the events."""

    __tablename__ = "log_cursors"

    consumer: str = text_column(primary_key=True)
    shard: int = Field(sa_column=Column(SmallInteger, primary_key=True))
    generation: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("0")))
    xid: int = Field(sa_column=Column(Xid8, nullable=False, server_default=text("'0'")))
    sequence: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    moved_at: datetime = transaction_time()


class PoisonEvent(SQLModel, table=True):
    """An event that a consumer skips after several failures to apply it."""

    __tablename__ = "poison_events"
    __table_args__ = (Index("poison_events_by_status", "status", "set_aside_at"),)

    poison_id: str = text_column(primary_key=True)
    consumer: str = text_column()
    event_id: str = text_column()
    user_id: str = text_column()
    timestamp: datetime = time_column()
    """The event's timestamp, which determines its partition."""
    tries: int = Field(sa_column=Column(Integer, nullable=False))
    error_type: str = text_column()
    status: str = text_column()
    """`open`, `replayed` or `discarded`."""
    set_aside_at: datetime = transaction_time()


class Redaction(SQLModel, table=True):
    """A pending redaction: stored events may still hold an attribute that this person opted out of."""

    __tablename__ = "redactions"
    __table_args__ = (Index("redactions_by_due_at", "due_at"),)

    user_id: str = text_column(primary_key=True)
    token: UUID = Field(
        default=None, sa_column=Column(Uuid, nullable=False, server_default=text("gen_random_uuid()"))
    )
    """Each opt-out sets a new token. A worker with an older one can't advance or finish the redaction."""
    requested_at: datetime = row_time()
    due_at: datetime = row_time()
    after_timestamp: datetime | None = time_column(nullable=True)
    """With ``after_event_id``, the last redacted event; NULL before the first."""
    after_event_id: str | None = text_column(nullable=True)
    events_changed: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
