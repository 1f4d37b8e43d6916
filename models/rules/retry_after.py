"""The header `Retry-After` of an HTTP answer (RFC 9110, 10.2.3): seconds, or a date in one of three forms."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

_DATES = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")
"""IMF-fixdate, RFC 850 and asctime (RFC 9110, 5.6.7)."""


def retry_after(value: str | None, now: datetime, longest: timedelta) -> timedelta | None:
    """The wait that a server asks for, from zero to ``longest``; None without a header of a known form.

    A date that has passed is zero. ``now`` has a time zone.
    """
    if value is None or not value.isascii():
        return None
    value = value.strip()
    if value.isdecimal():
        seconds = value.lstrip("0") or "0"
        # No clock counts so many seconds, and `int` rejects thousands of digits.
        return longest if len(seconds) > 9 else min(timedelta(seconds=int(seconds)), longest)
    date = _http_date(value)
    return None if date is None else min(max(date - now, timedelta()), longest)


def _http_date(value: str) -> datetime | None:
    for form in _DATES:
        with suppress(ValueError):
            return datetime.strptime(value, form).replace(tzinfo=UTC)
    return None
