"""How often a person buys, and the revenue to expect from them.

The model is the plainest one of customer lifetime value: average order value · purchases a year · expected years.
It is the first case of Berger and Nasr, "Customer lifetime value: Marketing models and applications" (Journal of
Interactive Marketing 12(1), 1998), with revenue in place of margin, all customers retained, and no discount rate.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from models.rules.activity import Activity
from models.rules.money import product

_HOUR = timedelta(hours=1)
_PERIOD_HOURS = 30 * 24
_YEAR_HOURS = 365 * 24
_PLACES = 4


def purchase_frequency(activity: Activity, now: datetime) -> float | None:
    """Purchases per 30 days since the first purchase, in all currencies; None without purchases.

    The time is that of whole hours, so that two reads agree, and at least 30 days: one purchase of today is 1.0,
    and so is one whose clock was ahead. Refunds take no purchase away. Rounded to four places.
    """
    hours = _hours_of_purchases(activity, now)
    return None if hours is None else round(activity.total_purchases * _PERIOD_HOURS / hours, _PLACES)


def customer_lifetime_value(activity: Activity, now: datetime, expected_years: Decimal) -> str | None:
    """Average order value · purchases a year · ``expected_years``, in the main currency; None without purchases.

    A year has 365 / 30 of the periods of :func:`purchase_frequency`. Orders in other currencies count as orders of
    the average value. Refunds lower that value, below zero if they exceed the purchases. No factor is rounded, and
    the product is, half up, like an average order value.

    Three purchases of together 90.00, the first 60 days ago: 30.00 · 1.5 · 365 / 30 · 3 = 1642.50.
    """
    main, hours = activity.main_total, _hours_of_purchases(activity, now)
    if main is None or hours is None or main.purchases == 0:
        return None
    years, parts = expected_years.as_integer_ratio()
    # In integers: the 30 days of the frequency, and those of the year's periods, cancel out.
    orders = activity.total_purchases * _YEAR_HOURS * years
    return product(main.revenue, orders, hours * parts * main.purchases)


def _hours_of_purchases(activity: Activity, now: datetime) -> int | None:
    """Whole hours since the first purchase, at least 30 days; None without purchases."""
    first = activity.first_purchase_at
    if activity.total_purchases == 0 or first is None:
        return None
    return max(_PERIOD_HOURS, (now - first) // _HOUR)
