"""How events become a person's sessions, transactions and totals. Pure: no clock, no store.

Every effect is a sum, a minimum, a maximum or said once and for all, so that the order of events doesn't matter:
late and out-of-order events, in whatever batches, give what ordered ones give.

An event folds whole or not at all: :meth:`Projection.add` reads everything it needs of an event before it
changes anything, and raises whatever an unusable event makes it raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from models.rules.money import amount_of, currency_of

PURCHASE = "transaction.purchase_complete"
REFUND = "transaction.refund"
FEATURE_CLICK = "engagement.feature_click"
ACCOUNT_DELETION = "user.account_deletion"

Kind = Literal["purchase", "refund"]
_KINDS: Mapping[str, Kind] = {PURCHASE: "purchase", REFUND: "refund"}
WORKFLOW_SESSION = "workflow:"
"""Begins the session ids of events that workflows record: those are no visit."""
_ID_LENGTH = 1024
"""What a text that becomes part of an index may have: Postgres refuses index rows of more than 2,704 bytes."""


class UnfoldableError(ValueError):
    """An event isn't what its type says; the text never holds anything of it."""


@dataclass(slots=True, eq=False)
class FoldedEvent:
    """An event as consumers of the log see it; nobody changes it (to freeze it would triple the cost of one).

    Its body is opened only for those who ask for it.
    """

    event_id: str
    user_id: str
    event_type: str
    timestamp: datetime
    session_id: str
    received_at: datetime
    historical: bool
    body: Callable[[], Mapping[str, Any]]
    """Opens the body, which has `event_properties`, `device_info`, `location` and `referrer` where they were
    sent; may raise."""

    @property
    def properties(self) -> Mapping[str, Any]:
        """The event's properties, opened; empty where it has none."""
        properties = self.body().get("event_properties")
        if properties is None:
            return {}
        if not isinstance(properties, Mapping):
            raise UnfoldableError("event_properties is an object")
        return properties


@dataclass(frozen=True, slots=True)
class TransactionEntry:
    """A purchase or refund, named by its event."""

    event_id: str
    user_id: str
    kind: Kind
    order_id: str | None
    amount: Decimal
    currency: str
    occurred_at: datetime


@dataclass(slots=True)
class Projection:
    """What a batch of events adds to what is stored."""

    sessions: dict[tuple[str, str], tuple[datetime, datetime]] = field(default_factory=dict)
    """By (user id, session id): the first and the last event."""
    transactions: dict[str, TransactionEntry] = field(default_factory=dict)
    """By event id."""
    features: dict[tuple[str, str], int] = field(default_factory=dict)
    """By (user id, feature): uses."""
    closed: set[str] = field(default_factory=set)
    """Whose account has closed."""

    def add(self, event: FoldedEvent) -> None:
        """Fold one event in; raises, with nothing changed, where the event is unusable."""
        transaction = _transaction_of(event)
        feature = _feature_of(event)
        if transaction is not None:
            self.transactions[event.event_id] = transaction
        if feature is not None:
            used = (event.user_id, feature)
            self.features[used] = self.features.get(used, 0) + 1
        if event.event_type == ACCOUNT_DELETION:
            self.closed.add(event.user_id)
        if event.session_id.startswith(WORKFLOW_SESSION):
            return  # a workflow's event: nobody was there
        session = (event.user_id, event.session_id)
        first, last = self.sessions.get(session, (event.timestamp, event.timestamp))
        self.sessions[session] = (min(first, event.timestamp), max(last, event.timestamp))


def _transaction_of(event: FoldedEvent) -> TransactionEntry | None:
    kind = _KINDS.get(event.event_type)
    if kind is None:
        return None
    properties = event.properties
    order_id = properties.get("order_id")
    return TransactionEntry(
        event_id=event.event_id,
        user_id=event.user_id,
        kind=kind,
        order_id=None if order_id is None else _as_text(order_id),
        amount=amount_of(properties.get("amount")),
        currency=currency_of(properties.get("currency")),
        occurred_at=event.timestamp,
    )


def _as_text(order_id: Any) -> str:
    """An order's id as a text: 100, 1e2 and "100" are one."""
    whole = isinstance(order_id, float) and order_id.is_integer()
    return str(int(order_id)) if whole else str(order_id)


def _feature_of(event: FoldedEvent) -> str | None:
    if event.event_type != FEATURE_CLICK:
        return None
    feature = event.properties.get("feature")
    if not isinstance(feature, str) or not 0 < len(feature.encode()) <= _ID_LENGTH:
        raise UnfoldableError("a feature is a text that isn't empty or very long")
    return feature
