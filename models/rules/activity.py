"""What is computed of a person from events, as the profile shows it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

_SESSIONS_TO_HALF = 4
"""How many sessions give half of what there is to have."""
_DAYS_TO_HALF = 14
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class CurrencyTotal:
    """A person's purchases in one currency. ``revenue`` is net of refunds, so it may be below zero."""

    currency: str
    purchases: int
    revenue: Decimal
    last_purchase_at: datetime | None


@dataclass(frozen=True)
class Activity:
    """Totals of a person's behaviour and purchases. The defaults are those of a person without events."""

    session_count: int = 0
    last_session_date: datetime | None = None
    total_session_seconds: float = 0.0
    features: Mapping[str, int] = field(default_factory=dict)
    """How often each feature was used."""
    totals: tuple[CurrencyTotal, ...] = ()

    def engagement_score(self, now: datetime, *, profiling: bool) -> float | None:
        """The person's score, 0 to 100, to a tenth: 100 · (1 - 2^(-sessions / 4)) · 2^(-days / 14), where the days
        are those since the last session, as UTC counts them. So it grows with the sessions, less with each, and
        halves with every fortnight without one; the order in which events came doesn't matter.

        ``profiling`` is the person's consent as read together with this activity: without it there is no score,
        for nobody and nowhere; this is the only place that computes one.
        """
        if not profiling:
            return None
        if self.last_session_date is None:
            return 0.0
        days = max(0, (now.astimezone(UTC).date() - self.last_session_date.astimezone(UTC).date()).days)
        frequency = 1 - math.exp2(-self.session_count / _SESSIONS_TO_HALF)
        return round(100 * frequency * math.exp2(-days / _DAYS_TO_HALF), 1)

    @property
    def total_purchases(self) -> int:
        """Purchases over all currencies."""
        return sum(total.purchases for total in self.totals)

    @property
    def last_purchase_at(self) -> datetime | None:
        """The latest purchase over all currencies."""
        return max((total.last_purchase_at for total in self.totals if total.last_purchase_at), default=None)

    @property
    def main_total(self) -> CurrencyTotal | None:
        """The currency with most purchases; of several with as many, the one with the latest."""
        return max(
            self.totals,
            key=lambda total: (total.purchases, total.last_purchase_at or _NEVER, total.currency),
            default=None,
        )
