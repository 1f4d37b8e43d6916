"""Computes a person's sessions, transactions and totals from events.

Each effect is a sum, a maximum or a set union, and visits follow from the set of times. So the order of events
and the size of batches don't affect the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from models.rules.money import amount_of, currency_of
from models.rules.profile_changes import PROFILE_UPDATE, ProfileChange, change_of
from models.rules.visits import Visits
from models.vocabulary import Basis

PURCHASE = "transaction.purchase_complete"
REFUND = "transaction.refund"
FEATURE_CLICK = "engagement.feature_click"
ACCOUNT_DELETION = "user.account_deletion"

Kind = Literal["purchase", "refund"]
_CONSENT = Basis.CONSENT.value
_KINDS: Mapping[str, Kind] = {PURCHASE: "purchase", REFUND: "refund"}
WORKFLOW_SESSION = "workflow:"
"""Prefix of the session ids of events that workflows record."""
_MAX_INDEXED_BYTES = 1024  # Postgres rejects index rows of more than 2,704 bytes


class UnfoldableError(ValueError):
    """An event doesn't match its type. The text repeats no part of the event."""


@dataclass(slots=True, eq=False)  # frozen=True would triple the cost of construction
class LogEvent:
    """An event as consumers of the log read it. Do not modify it."""

    event_id: str
    user_id: str
    event_type: str
    timestamp: datetime
    session_id: str
    received_at: datetime
    historical: bool
    body: Callable[[], Mapping[str, Any]]
    """Decrypts the body: the sent ones of `event_properties`, `device_info`, `location` and `referrer`.
    Raises an error of :mod:`privacy.encryption`."""
    basis: str = Basis.CONSENT.value
    dimensions: str | None = None
    """Its stored dimensions, as Postgres writes JSON."""

    @property
    def consented(self) -> bool:
        """Whether it was stored with consent. Otherwise it concerns transactions and service workflows alone."""
        return self.basis == _CONSENT

    @property
    def properties(self) -> Mapping[str, Any]:
        """Decrypted on each access; empty if the event has none."""
        properties = self.body().get("event_properties")
        if properties is None:
            return {}
        if not isinstance(properties, Mapping):
            raise UnfoldableError("event_properties must be an object")
        return properties


@dataclass(frozen=True, slots=True)
class TransactionEntry:
    event_id: str
    user_id: str
    kind: Kind
    order_id: str | None
    amount: Decimal
    currency: str
    occurred_at: datetime


@dataclass(slots=True)
class Projection:
    """The changes that a batch of events makes to the stored totals."""

    visits: Visits = field(default_factory=Visits)
    transactions: dict[str, TransactionEntry] = field(default_factory=dict)
    """By event id."""
    features: dict[tuple[str, str], int] = field(default_factory=dict)
    """By (user id, feature): uses."""
    closed: set[str] = field(default_factory=set)
    """Ids of users whose account was closed."""
    imported: dict[str, datetime] = field(default_factory=dict)
    """By user id: the time of the latest historical event of a session."""
    changes: dict[str, list[ProfileChange]] = field(default_factory=dict)
    """By user id: changes of the profile."""

    def add(self, event: LogEvent) -> None:
        """Add an event. Raises, and changes nothing, if the event can't be used."""
        # anything that may raise comes before the first change
        transaction = _transaction_of(event)
        feature = _feature_of(event)
        change = _change_of(event)
        if transaction is not None:
            self.transactions[event.event_id] = transaction
        if not event.consented:
            return
        if feature is not None:
            used = (event.user_id, feature)
            self.features[used] = self.features.get(used, 0) + 1
        if event.event_type == ACCOUNT_DELETION:
            self.closed.add(event.user_id)
        if change is not None:
            self.changes.setdefault(event.user_id, []).append(change)
        if event.session_id.startswith(WORKFLOW_SESSION):
            return  # a workflow recorded it, so it is neither a visit nor an action of the user
        if event.historical:
            latest = self.imported.get(event.user_id, event.timestamp)
            self.imported[event.user_id] = max(latest, event.timestamp)
        self.visits.add(event.user_id, event.session_id, event.event_type, event.timestamp)


def _transaction_of(event: LogEvent) -> TransactionEntry | None:
    kind = _KINDS.get(event.event_type)
    if kind is None:
        return None
    properties = event.properties
    order_id = properties.get("order_id")
    return TransactionEntry(
        event_id=event.event_id,
        user_id=event.user_id,
        kind=kind,
        order_id=None if order_id is None else id_text(order_id),
        amount=amount_of(properties.get("amount")),
        currency=currency_of(properties.get("currency")),
        occurred_at=event.timestamp,
    )


def id_text(identifier: Any) -> str:
    """An id as text: 100, 1e2 and "100" are the same order or product."""
    whole = isinstance(identifier, float) and identifier.is_integer()
    return str(int(identifier)) if whole else str(identifier)


def _change_of(event: LogEvent) -> ProfileChange | None:
    if event.event_type != PROFILE_UPDATE or not event.consented:
        return None
    return change_of(event.properties, event.timestamp, event.received_at, historical=event.historical)


def _feature_of(event: LogEvent) -> str | None:
    if event.event_type != FEATURE_CLICK:
        return None
    feature = event.properties.get("feature")
    if not isinstance(feature, str) or not 0 < len(feature.encode()) <= _MAX_INDEXED_BYTES:
        raise UnfoldableError(f"a feature must be a string of 1 to {_MAX_INDEXED_BYTES} bytes")
    return feature
