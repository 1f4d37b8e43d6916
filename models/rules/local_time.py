"""Wall-clock times in a person's time zone.

If clocks go forward over a time, it keeps the earlier offset: it is later by the length of the gap (RFC 5545,
3.3.5). If a time occurs twice, the first one counts.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

_MAX_DAYS_AHEAD = 8  # the same weekday next week, plus one for quiet hours that end after midnight


def zone_of(name: str | None) -> ZoneInfo:
    """The time zone with this IANA name; UTC if there is none."""
    try:
        return ZoneInfo(name or "UTC")
    except (ValueError, OSError, LookupError):  # ZoneInfoNotFoundError is a LookupError
        return ZoneInfo("UTC")


def next_local(
    after: datetime, zone: ZoneInfo, at: time | None, weekdays: Collection[int], quiet: tuple[time, time]
) -> datetime:
    """The next time, in UTC, that is ``at`` in the zone on one of the ISO weekdays (1 to 7).

    The result is later than ``after``. Without ``at`` it is ``after`` itself on such a weekday, else the next such
    day's midnight. A result within the quiet hours (begin, end) moves to their end.

    Raises ValueError without a valid weekday, or if the quiet hours leave no such time.
    """
    if not set(weekdays) & set(range(1, 8)):
        raise ValueError("weekdays needs a number from 1 (Monday) to 7 (Sunday)")
    today = after.astimezone(zone).date()
    for ahead in range(_MAX_DAYS_AHEAD + 1):
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
    # in UTC: comparing two local times of one zone ignores the change of its offset
    return datetime.combine(day, at.replace(tzinfo=None), zone).astimezone(UTC)


def _after_quiet(moment: datetime, zone: ZoneInfo, quiet: tuple[time, time]) -> datetime:
    begins, ends = quiet
    local = moment.astimezone(zone)
    clock = local.time()
    if begins <= ends:
        return _on(local.date(), ends, zone) if begins <= clock < ends else moment
    if clock >= begins:  # the quiet hours include midnight
        return _on(local.date() + timedelta(days=1), ends, zone)
    return _on(local.date(), ends, zone) if clock < ends else moment
