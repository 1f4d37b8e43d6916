"""How often a person buys, and the revenue to expect from them.

The model is the plainest one of customer lifetime value: average order value · purchases a year · expected years.
It is the first case of Berger and Nasr, "Customer lifetime value: Marketing models and applications" (Journal of
Interactive Marketing 12(1), 1998), with revenue in place of margin, all customers retained, and no discount rate.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from models.rules.activity import Activity
from models.rules.money import product

_PERIOD = timedelta(days=30)
_DAYS_A_YEAR = 365
_HOUR = timedelta(hours=1)
_PLACES = 4


def purchase_frequency(activity: Activity, now: datetime) -> float | None:
    """Purchases per 30 days since the first purchase, in all currencies; None without purchases.

    The time is that of whole hours, so that two reads agree, and at least 30 days: one purchase of today is 1.0,
    and so is one whose clock was ahead. Refunds take no purchase away. Rounded to four places.
    """
    rate = _rate(activity, now)
    return None if rate is None else round(float(rate), _PLACES)


def customer_lifetime_value(activity: Activity, now: datetime, expected_years: Decimal) -> str | None:
    """Average order value · purchases a year · ``expected_years``, in the main currency; None without purchases.

    A year has 365 / 30 of the periods of :func:`purchase_frequency`. Orders in other currencies count as orders of
    the average value. Refunds lower that value, below zero if they exceed the purchases. No factor is rounded, and
    the product is, half up, like an average order value.

    Three purchases of together 90.00, the first 60 days ago: 30.00 · 1.5 · 365 / 30 · 3 = 1642.50.
    """
    main, rate = activity.main_total, _rate(activity, now)
    if main is None or rate is None or main.purchases == 0:
        return None
    orders = rate * Fraction(_DAYS_A_YEAR, _PERIOD.days) * Fraction(expected_years)
    return product(main.revenue, orders / main.purchases)


def _rate(activity: Activity, now: datetime) -> Fraction | None:
    """Purchases per 30 days, exactly."""
    purchases, first = activity.total_purchases, activity.first_purchase_at
    if purchases == 0 or first is None:
        return None
    return Fraction(purchases * (_PERIOD // _HOUR), max(_PERIOD, now - first) // _HOUR)
