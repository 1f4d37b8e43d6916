"""The figures of a profile that are computed from events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from models.rules.engagement import Engagement

MOST_FEATURES = 1000
"""The most features that a profile shows."""
MOST_CURRENCIES = 200
"""The most currencies that a profile shows: ISO 4217 has fewer, but events may have any three letters."""
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class CurrencyTotal:
    """A person's purchases in one currency. ``revenue`` is purchases minus refunds, so it may be negative."""

    currency: str
    purchases: int
    revenue: Decimal
    last_purchase_at: datetime | None
    first_purchase_at: datetime | None = None


@dataclass(frozen=True)
class Activity:
    """Totals of a person's behaviour and purchases. The defaults describe a person without events."""

    session_count: int = 0
    last_session_date: datetime | None = None
    total_session_seconds: float = 0.0
    decayed_sessions: int = 0
    """A sum of forward weights (:mod:`models.rules.engagement`), as the next."""
    decayed_actions: int = 0
    features: Mapping[str, int] = field(default_factory=dict)
    """Uses by feature: the most used ones, up to one more than :data:`MOST_FEATURES`."""
    totals: tuple[CurrencyTotal, ...] = ()
    """By currency: those with the most purchases, up to one more than :data:`MOST_CURRENCIES`."""
    purchases_in_all: tuple[int, datetime | None, datetime | None] | None = None
    """Number, latest and first time of the purchases in all currencies; None if ``totals`` has all of them."""

    def engagement(self, now: datetime, *, profiling: bool) -> Engagement | None:
        """The engagement score and its terms; None without the consent ``profiling``, read with this activity."""
        if not profiling:  # the only check: no other function computes a score
            return None
        return Engagement.at(now, self.last_session_date, self.decayed_sessions, self.decayed_actions)

    def engagement_score(self, now: datetime, *, profiling: bool) -> float | None:
        """0 to 100, rounded to 0.1. None as in :meth:`engagement`."""
        found = self.engagement(now, profiling=profiling)
        return None if found is None else found.score

    @property
    def shown_features(self) -> dict[str, int]:
        """The most used features, by name; of equals the first by name, in any order of the events."""
        used = sorted(self.features.items(), key=lambda feature: (-feature[1], feature[0]))
        return dict(sorted(used[:MOST_FEATURES]))

    @property
    def total_purchases(self) -> int:
        if self.purchases_in_all is not None:
            return self.purchases_in_all[0]
        return sum(total.purchases for total in self.totals)

    @property
    def last_purchase_at(self) -> datetime | None:
        if self.purchases_in_all is not None:
            return self.purchases_in_all[1]
        return max((total.last_purchase_at for total in self.totals if total.last_purchase_at), default=None)

    @property
    def first_purchase_at(self) -> datetime | None:
        if self.purchases_in_all is not None:
            return self.purchases_in_all[2]
        return min((total.first_purchase_at for total in self.totals if total.first_purchase_at), default=None)

    @property
    def main_total(self) -> CurrencyTotal | None:
        """The total with the most purchases; of several, the one with the latest purchase."""
        return max(self.totals, key=_purchases, default=None)

    @property
    def shown_totals(self) -> list[CurrencyTotal]:
        """The totals with the most purchases, by currency."""
        most = sorted(self.totals, key=_purchases, reverse=True)[:MOST_CURRENCIES]
        return sorted(most, key=lambda total: total.currency)


def _purchases(total: CurrencyTotal) -> tuple[int, datetime, str]:
    return total.purchases, total.last_purchase_at or _NEVER, total.currency
