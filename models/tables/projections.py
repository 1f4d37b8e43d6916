"""What the projector makes of events: sessions, transactions, totals; and what it tells Temporal."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, Numeric, text
from sqlmodel import Field, SQLModel

from models.personal import personal
from models.tables.columns import moment, now, words


class Session(SQLModel, table=True):
    """One session of a user: from its first to its last event, in whatever order they came."""

    __tablename__ = "sessions"

    user_id: str = words(primary_key=True)
    session_id: str = words(primary_key=True)
    first_at: datetime = moment()
    last_at: datetime = moment()


class Transaction(SQLModel, table=True):
    """A purchase or refund, with a reference to the event it came from."""

    __tablename__ = "transactions"
    __table_args__ = (Index("transactions_of_user", "user_id", "occurred_at", "event_id"),)

    event_id: str = words(primary_key=True)
    user_id: str = words()
    kind: str = words()
    """`purchase` or `refund`."""
    order_id: bytes | None = personal(None)
    """Encrypted, since it comes from an event's body; it names an order and nobody, so it is shown."""
    amount: Decimal = Field(sa_column=Column(Numeric, nullable=False))
    currency: str = words()
    occurred_at: datetime = moment()


class UserActivity(SQLModel, table=True):
    """Totals of a user's behaviour; sums, so that the order of events doesn't matter."""

    __tablename__ = "user_activity"

    user_id: str = words(primary_key=True)
    session_count: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("0")))
    last_session_date: datetime | None = moment(nullable=True)
    total_session_seconds: float = Field(sa_column=Column(Float(53), nullable=False, server_default=text("0")))
    updated_at: datetime = now()


class FeatureUsage(SQLModel, table=True):
    """How often a user has used a feature."""

    __tablename__ = "feature_usage"

    user_id: str = words(primary_key=True)
    feature: str = words(primary_key=True)
    uses: int = Field(sa_column=Column(BigInteger, nullable=False))


class PurchaseTotal(SQLModel, table=True):
    """Totals of a user's purchases in one currency; currencies are never added together."""

    __tablename__ = "purchase_totals"

    user_id: str = words(primary_key=True)
    currency: str = words(primary_key=True)
    purchases: int = Field(sa_column=Column(BigInteger, nullable=False))
    revenue: Decimal = Field(sa_column=Column(Numeric, nullable=False))
    """Purchases less refunds."""
    last_purchase_at: datetime | None = moment(nullable=True)


class EventWait(SQLModel, table=True):
    """An instance that waits for an event of its user (decision 8: registered first, then it looks back)."""

    __tablename__ = "event_waits"
    __table_args__ = (Index("event_waits_of_user", "user_id"),)

    instance_id: str = words(primary_key=True)
    step: str = words(primary_key=True)
    workflow_id: str = words()
    user_id: str = words()
    event_type: str = words()
    """A type, a category (`engagement.*`) or `*`."""
    since: datetime = moment()
    """Events that were received before don't count."""
    not_before: datetime | None = moment(nullable=True)
    """Events that happened before don't count, where the journey says so."""
    property_filter: bytes | None = personal()
    """Property names of the event and the values they must have, which an author may take from parameters."""
    registered_at: datetime = now()


class TemporalOutbox(SQLModel, table=True):
    """What the projector wants Temporal to be told; written with the cursor's move, delivered idempotently."""

    __tablename__ = "temporal_outbox"
    __table_args__ = (Index("temporal_outbox_due", "due_at", "outbox_id", postgresql_where=text("NOT dead")),)

    outbox_id: int | None = Field(default=None, sa_column=Column(BigInteger, primary_key=True))
    kind: str = words()
    """`signal` (an event for a waiting instance), `start` (a trigger), `replay` (of a dead letter) or
    `cancel` (what rested on a consent that was withdrawn), `callback` (an instance has ended)."""
    workflow_id: str = words()
    instance_id: str = words()
    step: str | None = words(nullable=True)
    """The wait that a `signal` is for."""
    user_id: str = words()
    event_id: str = words()
    event_type: str = words()
    event_timestamp: datetime = moment()
    attempts: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("0")))
    due_at: datetime = now()
    dead: bool = Field(sa_column=Column(Boolean, nullable=False, server_default=text("false")))
    """Given up, and kept for whoever looks into it; a `cancel` never is."""
