"""What is computed of a person from events, as the profile shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

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
