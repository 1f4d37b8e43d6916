"""What the projections of one person should be, given the stored ones and the events that the log still has.

Rows from a time on follow from the events from that time on. Earlier rows stay, since retention may have deleted
their events. Of a visit across that time, the part before it stays.

Totals are sums of rows. Where retention has deleted rows of the person, a total keeps their contribution: it
changes by the difference between new and stored rows. Uses of features and weights of actions have no rows. They
are recomputed where the log has all events of the person, and else they stay.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from models.rules.engagement import forward_weight
from models.rules.folding import Projection, TransactionEntry
from models.rules.money import exact_sum
from models.rules.visits import Span, joined, spans_of

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Scope:
    """What can be recomputed for one person."""

    since: datetime
    """Visits and events from this time on are recomputed."""
    transactions_since: datetime
    """Purchases and refunds from this time on are recomputed; not earlier than ``since``."""
    complete: bool
    """Whether no event of the person is older than ``since``, and retention has deleted none."""
    visits_kept: bool
    """Whether retention has deleted no visit of the person."""
    transactions_kept: bool
    """Whether retention has deleted no purchase or refund of the person."""


class Visit(NamedTuple):
    session_id: str
    first: datetime
    last: datetime


class ActivityTotals(NamedTuple):
    """A row of `user_activity`. A person without a row has zeros."""

    sessions: int = 0
    last_session: datetime | None = None
    microseconds: int = 0
    decayed_sessions: int = 0
    decayed_actions: int = 0
    last_historical: datetime | None = None


class PurchaseSums(NamedTuple):
    """A row of `purchase_totals`."""

    purchases: int = 0
    revenue: Decimal = Decimal(0)
    last: datetime | None = None
    first: datetime | None = None


@dataclass(slots=True)
class Projected:
    """The projections of one person."""

    visits: set[Visit] = field(default_factory=set)
    totals: ActivityTotals = field(default_factory=ActivityTotals)
    transactions: dict[str, TransactionEntry] = field(default_factory=dict)
    """By event id."""
    purchases: dict[str, PurchaseSums] = field(default_factory=dict)
    """By currency."""
    features: dict[str, int] = field(default_factory=dict)
    """Uses by feature."""


def recomputed(stored: Projected, events: Projection, scope: Scope, timeout: timedelta) -> Projected:
    """``events`` has the events of one person from ``scope.since`` on that the projector has applied."""
    visits = _visits(stored.visits, events, scope, timeout)
    transactions = _transactions(stored, events, scope)
    features = {feature: uses for (_, feature), uses in events.features.items()}
    return Projected(
        visits=visits,
        totals=_totals(stored, visits, events, scope),
        transactions=transactions,
        purchases=_purchases(stored, transactions, scope),
        features=features if scope.complete else stored.features,
    )


def _visits(stored: set[Visit], events: Projection, scope: Scope, timeout: timedelta) -> set[Visit]:
    older = set[Visit]()
    spans: dict[str, list[Span]] = defaultdict(list)
    for (_, session_id), found in spans_of(events.visits.times, timeout).items():
        spans[session_id] += found
    for visit in set[Visit]() if scope.complete else stored:
        if visit.last <= scope.since - timeout:
            older.add(visit)
        elif visit.first < scope.since:
            # Its last event before that time is at most the time-out before the next one, so they join as before.
            spans[visit.session_id].append((visit.first, min(visit.last, scope.since)))
    return older | {
        Visit(session_id, *span) for session_id, found in spans.items() for span in joined(sorted(found), timeout)
    }


def _totals(stored: Projected, visits: set[Visit], events: Projection, scope: Scope) -> ActivityTotals:
    had, new = stored.totals, _sums(visits)
    if not scope.visits_kept:
        gone = tuple(total - row for total, row in zip(had[0:1] + had[2:4], _sums(stored.visits), strict=True))
        new = new[0] + gone[0], new[1] + gone[1], new[2] + gone[2]
    last = max((each.last for each in visits), default=None)
    actions, historical = sum(events.visits.actions.values()), max(events.imported.values(), default=None)
    if not scope.complete:
        actions = had.decayed_actions
        historical = _latest(had.last_historical, historical, scope.since)
    if not scope.visits_kept:
        last = _latest(had.last_session, last, scope.since)
    return ActivityTotals(new[0], last, new[1], new[2], actions, historical)


def _sums(visits: Iterable[Visit]) -> tuple[int, int, int]:
    """Number, duration in microseconds, and forward weights."""
    number = microseconds = weights = 0
    for _, first, last in visits:
        number += 1
        microseconds += (last - first) // _MICROSECOND
        weights += forward_weight(first)
    return number, microseconds, weights


def _latest(stored: datetime | None, found: datetime | None, since: datetime) -> datetime | None:
    """The latest time. A stored one counts from before ``since``, or if there is no other."""
    if stored is None or found is None:
        return stored or found
    return max(stored, found) if stored < since else found


def _transactions(stored: Projected, events: Projection, scope: Scope) -> dict[str, TransactionEntry]:
    since = scope.transactions_since
    found = {key: each for key, each in events.transactions.items() if each.occurred_at >= since}
    if scope.complete and since <= scope.since:
        return found
    return {key: each for key, each in stored.transactions.items() if each.occurred_at < since} | found


def _purchases(
    stored: Projected, transactions: Mapping[str, TransactionEntry], scope: Scope
) -> dict[str, PurchaseSums]:
    new = _purchase_sums(transactions.values())
    if scope.transactions_kept:
        return new
    old, since = _purchase_sums(stored.transactions.values()), scope.transactions_since
    nothing, kept = PurchaseSums(), {}
    for currency in stored.purchases.keys() | new.keys():
        had, row, now = (each.get(currency, nothing) for each in (stored.purchases, old, new))
        sums = PurchaseSums(
            had.purchases - row.purchases + now.purchases,
            exact_sum([had.revenue, row.revenue.copy_negate(), now.revenue]),
            _latest(had.last, now.last, since),
            had.first if had.first is not None and had.first < since else now.first or had.first,
        )
        if currency in new or sums[:2] != nothing[:2]:
            kept[currency] = sums
    return kept


def _purchase_sums(transactions: Iterable[TransactionEntry]) -> dict[str, PurchaseSums]:
    by_currency: dict[str, list[TransactionEntry]] = defaultdict(list)
    for each in transactions:
        by_currency[each.currency].append(each)
    found = {}
    for currency, entries in by_currency.items():
        times = [each.occurred_at for each in entries if each.kind == "purchase"]
        amounts = [each.amount if each.kind == "purchase" else each.amount.copy_negate() for each in entries]
        found[currency] = PurchaseSums(
            len(times), exact_sum(amounts), max(times, default=None), min(times, default=None)
        )
    return found
