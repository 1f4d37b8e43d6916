"""When it is some o'clock where a person lives. Pure; what clocks do in spring and autumn is zoneinfo's.

A wall-clock time that is skipped when clocks are put forward is taken with the offset from before, so that it
comes that much later (RFC 5545, 3.3.5); of one that there is twice the first counts.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

_FARTHEST = 8
"""Days to look ahead: the same weekday next week, when today's time has passed."""


def zone_of(name: str | None) -> ZoneInfo:
    """The time zone of that IANA name; UTC where there is no such, or none was said."""
    try:
        return ZoneInfo(name or "UTC")
    except (ValueError, OSError, LookupError):  # ZoneInfoNotFoundError is a LookupError
        return ZoneInfo("UTC")


def next_local(
    after: datetime, zone: ZoneInfo, at: time | None, weekdays: Collection[int], quiet: tuple[time, time]
) -> datetime:
    """The first moment, in UTC, at which it is ``at`` o'clock in a zone on one of some ISO weekdays, strictly
    later than ``after``; without ``at``, ``after`` itself if it is on such a day. If that lies within the quiet
    hours (begin, end), the end of them.

    Raises ValueError where no weekday counts, or where the quiet hours leave none of them.
    """
    if not set(weekdays) & set(range(1, 8)):
        raise ValueError("name a weekday, from 1 for Monday to 7")
    today = after.astimezone(zone).date()
    for ahead in range(_FARTHEST + 1):
        day = today + timedelta(days=ahead)
        if day.isoweekday() not in weekdays:
            continue
        moment = _on(day, at, zone) if at is not None else max(after, _on(day, time(0), zone))
        if at is not None and moment <= after:
            continue
        moment = _after_quiet(moment, zone, quiet)
        if moment.astimezone(zone).isoweekday() in weekdays:
            return moment.astimezone(UTC)
    raise ValueError("the quiet hours leave no such time")


def _on(day: date, at: time, zone: ZoneInfo) -> datetime:
    """That time on that day, in UTC, so that later and earlier are what they are."""
    return datetime.combine(day, at.replace(tzinfo=None), zone).astimezone(UTC)


def _after_quiet(moment: datetime, zone: ZoneInfo, quiet: tuple[time, time]) -> datetime:
    begins, ends = quiet
    local = moment.astimezone(zone)
    clock = local.time()
    if begins <= ends:
        return _on(local.date(), ends, zone) if begins <= clock < ends else moment
    if clock >= begins:
        return _on(local.date() + timedelta(days=1), ends, zone)
    return _on(local.date(), ends, zone) if clock < ends else moment
