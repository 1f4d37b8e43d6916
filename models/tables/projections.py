"""Tables that the projector derives from events, waits for events, and the Temporal outbox."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, Numeric, text
from sqlmodel import Field, SQLModel

from models.personal import Mask, personal
from models.tables.columns import text_column, time_column, transaction_time


class Session(SQLModel, table=True):
    """One session of a user, from its first to its last event by their timestamps.

    A session id that is used again after a time without an event has several (:mod:`models.rules.visits`).
    """

    __tablename__ = "sessions"

    user_id: str = text_column(primary_key=True)
    session_id: str = text_column(primary_key=True)
    first_at: datetime = time_column(primary_key=True)
    last_at: datetime = time_column()


class Transaction(SQLModel, table=True):
    """A purchase or refund, identified by its event."""

    __tablename__ = "transactions"
    __table_args__ = (Index("transactions_of_user", "user_id", "occurred_at", "event_id"),)

    event_id: str = text_column(primary_key=True)
    user_id: str = text_column()
    kind: str = text_column()
    """`purchase` or `refund`."""
    order_id: bytes | None = personal(Mask.WORD)
    """Encrypted like the event's body. Every role sees an id that is a word."""
    amount: Decimal = Field(sa_column=Column(Numeric, nullable=False))
    currency: str = text_column()
    occurred_at: datetime = time_column()


class UserActivity(SQLModel, table=True):
    """Totals of a user's behaviour. They don't depend on the order of events."""

    __tablename__ = "user_activity"
    __table_args__ = (
        Index("user_activity_by_stage_due", "stage_due_at", postgresql_where=text("stage_due_at IS NOT NULL")),
    )

    user_id: str = text_column(primary_key=True)
    session_count: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("0")))
    last_session_date: datetime | None = time_column(nullable=True)
    total_session_seconds: float = Field(sa_column=Column(Float(53), nullable=False, server_default=text("0")))
    decayed_sessions: Decimal = Field(sa_column=Column(Numeric, nullable=False, server_default=text("0")))
    """Forward weights of the sessions' beginnings: an integer (:mod:`models.rules.engagement`)."""
    decayed_actions: Decimal = Field(sa_column=Column(Numeric, nullable=False, server_default=text("0")))
    """Forward weights of the events, times the weights of their types: an integer."""
    updated_at: datetime = transaction_time()
    stage_due_at: datetime | None = time_column(nullable=True)
    """When the sweep looks at the lifecycle stage: at the next crossing or earlier. Activity moves it to no later
    time, so that most updates change no index."""
    last_historical_at: datetime | None = time_column(nullable=True)
    """The time of the latest historical event."""


class FeatureUsage(SQLModel, table=True):
    __tablename__ = "feature_usage"

    user_id: str = text_column(primary_key=True)
    feature: str = text_column(primary_key=True)
    uses: int = Field(sa_column=Column(BigInteger, nullable=False))


class PurchaseTotal(SQLModel, table=True):
    """Totals of a user's purchases in one currency. Currencies are never added."""

    __tablename__ = "purchase_totals"

    user_id: str = text_column(primary_key=True)
    currency: str = text_column(primary_key=True)
    purchases: int = Field(sa_column=Column(BigInteger, nullable=False))
    revenue: Decimal = Field(sa_column=Column(Numeric, nullable=False))
    """Purchases minus refunds."""
    last_purchase_at: datetime | None = time_column(nullable=True)
    first_purchase_at: datetime | None = time_column(nullable=True)


class EventWait(SQLModel, table=True):
    """An instance's wait for an event.

    The instance registers it before it searches the log: an event that commits between the two is not missed.
    """

    __tablename__ = "event_waits"
    __table_args__ = (Index("event_waits_of_user", "user_id"),)

    instance_id: str = text_column(primary_key=True)
    step: str = text_column(primary_key=True)
    workflow_id: str = text_column()
    user_id: str = text_column()
    event_type: str = text_column()
    """A type, a category (`engagement.*`) or `*`."""
    since: datetime = time_column()
    """Events received before this time don't count."""
    not_before: datetime | None = time_column(nullable=True)
    """Events that happened before this time don't count; NULL: no such limit."""
    property_filter: bytes | None = personal()
    """Event properties and their required values, in JSON. Personal, because parameters may supply the values."""
    condition: str | None = text_column(nullable=True)
    """A value of :class:`models.vocabulary.WaitCondition`; NULL: none."""
    registered_at: datetime = transaction_time()


class TemporalOutbox(SQLModel, table=True):
    """A request to Temporal, written in the same transaction as its cause, and delivered idempotently."""

    __tablename__ = "temporal_outbox"
    __table_args__ = (
        Index("temporal_outbox_due", "due_at", "outbox_id", postgresql_where=text("NOT dead")),
        Index(
            "temporal_outbox_executions",
            "workflow_id",
            "due_at",
            postgresql_where=text("kind = 'execute' AND NOT dead"),
        ),
    )

    outbox_id: int | None = Field(default=None, sa_column=Column(BigInteger, primary_key=True))
    kind: str = text_column()
    """`signal` (an event for a wait), `start` (by a trigger), `execute` (of a bulk), `replay` (of a dead letter),
    `cancel` (after the withdrawal of a consent or the closing of an account) or `callback` (an instance has
    ended)."""
    workflow_id: str = text_column()
    instance_id: str = text_column()
    step: str | None = text_column(nullable=True)
    """The step whose wait a `signal` ends."""
    user_id: str = text_column()
    event_id: str = text_column()
    event_type: str = text_column()
    event_timestamp: datetime = time_column()
    attempts: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("0")))
    due_at: datetime = transaction_time()
    dead: bool = Field(sa_column=Column(Boolean, nullable=False, server_default=text("false")))
    """No more attempts; kept for an operator. A `cancel` never becomes dead: it is retried without limit."""
