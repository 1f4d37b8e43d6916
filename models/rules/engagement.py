"""The engagement score, and the decayed sums that it is computed from.

The score is 100 · (0.40 · recency + 0.35 · frequency + 0.25 · depth):

- recency = 2^(-days / 7), with the fractional days since the last event of a session;
- frequency = 1 - e^(-S / 8), S being the number of sessions;
- depth = 1 - e^(-A / 20), A being the number of actions, each counted with the weight of its event type.

S and A count each session and action by 2^(-age / 14 days). They are kept by forward decay (G. Cormode, V.
Shkapenyuk, D. Srivastava, B. Xu: Forward Decay, ICDE 2009): a stored sum adds 2^((time - landmark) / 14 days),
which never changes, and a read multiplies the sum by 2^(-(now - landmark) / 14 days). The stored sums are
integers, so that additions and subtractions are exact, and their order doesn't matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, Literal

TermName = Literal["recency", "frequency", "depth"]

LANDMARK: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""Never change it: stored sums count from it. They fit a float for 38 years after it."""
_HALF_LIFE: Final = timedelta(days=14)
_HALF_LIFE_MICROSECONDS: Final = 14 * 86_400_000_000
_BITS: Final = 20
"""Binary digits of a weight behind the point, so that one of an earlier time than the landmark isn't 0 at once."""
_ONE: Final = 1 << _BITS
_RECENCY_HALF_LIFE: Final = timedelta(days=7)
_SESSIONS: Final = 8
_ACTIONS: Final = 20
SHARES: Final[Mapping[TermName, float]] = {"recency": 0.40, "frequency": 0.35, "depth": 0.25}

OTHER_WEIGHT: Final = 1
"""The weight of an event type that isn't in the table."""
ACTION_WEIGHTS: Final[Mapping[str, int]] = {
    "user.signup": 3,
    "user.login": 1,
    "user.logout": 0,
    "user.profile_update": 2,
    "user.account_deletion": 0,
    "engagement.page_view": 1,
    "engagement.feature_click": 2,
    "engagement.content_view": 2,
    "engagement.search": 2,
    "engagement.share": 4,
    "transaction.cart_add": 3,
    "transaction.cart_remove": 1,
    "transaction.checkout_start": 4,
    "transaction.purchase_complete": 8,
    "transaction.refund": 0,
}
"""By event type. `docs/engagement.md` has this table."""


def action_weight(event_type: str) -> int:
    return ACTION_WEIGHTS.get(event_type, OTHER_WEIGHT)


def forward_weight(at: datetime) -> int:
    """2^((at - landmark) / 14 days) · 2^20, as an integer.

    It is 2^20 to 2^21, rounded, times a power of two: so the migration that computes it in SQL gets the same
    integer.
    """
    since = at - LANDMARK
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    halvings, rest = divmod(microseconds, _HALF_LIFE_MICROSECONDS)
    weight = round(math.exp2(rest / _HALF_LIFE_MICROSECONDS) * _ONE)
    return weight << halvings if halvings >= 0 else weight >> -halvings


def decayed(total: int | Decimal, now: datetime) -> float:
    """The value at ``now`` of a sum of forward weights."""
    return float(total) * math.exp2(-_BITS - (now - LANDMARK) / _HALF_LIFE)


def contribution(event_type: str, at: datetime, now: datetime) -> float:
    """What an event adds to A at ``now``."""
    return action_weight(event_type) * math.exp2(-(now - at) / _HALF_LIFE)


@dataclass(frozen=True)
class Term:
    """A term of the score. The points of all terms add up to the score exactly, in tenths."""

    name: TermName
    weight: float
    value: float
    """0 to 1."""
    points: float
    inputs: Mapping[str, float | datetime | None]


@dataclass(frozen=True)
class Engagement:
    """What the score is computed from. Without a session all three terms are 0."""

    last_session_date: datetime | None
    days: float | None
    """Since the last session; 0 if it is in the future."""
    sessions: float
    actions: float

    @classmethod
    def at(
        cls, now: datetime, last_session_date: datetime | None, sessions: int | Decimal, actions: int | Decimal
    ) -> Engagement:
        """From a last session and the stored sums of forward weights."""
        if last_session_date is None:
            return cls(None, None, 0.0, 0.0)
        days = max(0.0, (now - last_session_date) / timedelta(days=1))
        return cls(last_session_date, days, decayed(sessions, now), decayed(actions, now))

    @property
    def values(self) -> dict[TermName, float]:
        """By term: 0 to 1."""
        recency = 0.0 if self.days is None else math.exp2(-self.days * timedelta(days=1) / _RECENCY_HALF_LIFE)
        return {
            "recency": recency,
            "frequency": -math.expm1(-self.sessions / _SESSIONS),
            "depth": -math.expm1(-self.actions / _ACTIONS),
        }

    @property
    def score(self) -> float:
        """0 to 100, rounded to 0.1."""
        return _tenths(self.values) / 10

    @property
    def terms(self) -> list[Term]:
        values = self.values
        tenths = _shared_out(values)
        inputs: Mapping[TermName, Mapping[str, float | datetime | None]] = {
            "recency": {"last_session_date": self.last_session_date, "days": self.days},
            "frequency": {"decayed_sessions": self.sessions},
            "depth": {"decayed_actions": self.actions},
        }
        return [Term(name, share, values[name], tenths[name] / 10, inputs[name]) for name, share in SHARES.items()]


def _raw(values: Mapping[TermName, float]) -> dict[TermName, float]:
    """The terms in tenths of a point."""
    return {name: 1000 * share * values[name] for name, share in SHARES.items()}


def _tenths(values: Mapping[TermName, float]) -> int:
    return round(sum(_raw(values).values()))


def _shared_out(values: Mapping[TermName, float]) -> dict[TermName, int]:
    """The score's tenths by term, by the largest remainder (Hamilton's method)."""
    raw = _raw(values)
    points = {name: math.floor(exact) for name, exact in raw.items()}
    missing = _tenths(values) - sum(points.values())
    for name in sorted(raw, key=lambda name: points[name] - raw[name])[:missing]:
        points[name] += 1
    return points
