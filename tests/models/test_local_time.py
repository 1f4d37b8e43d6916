"""Wall-clock times in a time zone, also on the days when clocks change."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.rules.local_time import next_local, zone_of

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
EVERY_DAY = range(1, 8)
NEVER = (time(0), time(0))
NIGHT = (time(21), time(8))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("after", "zone", "at", "expected"),
    [
        ("2026-07-01T07:00", BERLIN, time(10), "2026-07-01T08:00"),  # later today, in summer
        ("2026-07-01T08:00", BERLIN, time(10), "2026-07-02T08:00"),  # exactly now is over: tomorrow
        ("2026-01-10T09:30", BERLIN, time(10), "2026-01-11T09:00"),  # winter
        ("2026-03-28T12:00", BERLIN, time(2, 30), "2026-03-29T01:30"),  # skipped: 03:30 summer time
        ("2026-03-28T12:00", BERLIN, time(10), "2026-03-29T08:00"),  # the day has 23 hours
        ("2026-10-24T12:00", BERLIN, time(2, 30), "2026-10-25T00:30"),  # there twice: the first
        ("2026-10-25T00:45", BERLIN, time(2, 30), "2026-10-26T01:30"),  # between the two: not again
        ("2026-03-07T20:00", NEW_YORK, time(2, 30), "2026-03-08T07:30"),
        ("2026-11-01T05:45", NEW_YORK, time(1, 30), "2026-11-02T06:30"),
        ("2026-10-03T00:00", LORD_HOWE, time(2, 10), "2026-10-03T15:40"),  # put forward by half an hour
    ],
)
def test_the_next_wall_clock_time_is_found(after: str, zone: ZoneInfo, at: time, expected: str) -> None:
    assert next_local(utc(after), zone, at, EVERY_DAY, NEVER) == utc(expected)


def test_only_some_weekdays_count() -> None:
    friday_noon = utc("2026-07-03T12:00")
    assert next_local(friday_noon, BERLIN, time(10), (1, 2, 3, 4, 5), NEVER) == utc("2026-07-06T08:00")
    assert next_local(friday_noon, BERLIN, None, (1,), NEVER) == utc("2026-07-05T22:00")
    assert next_local(friday_noon, BERLIN, time(14), (5,), NEVER) == utc("2026-07-10T12:00")


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("2026-07-01T12:00", "2026-07-01T12:00"),  # by day: at once
        ("2026-07-01T19:00", "2026-07-02T06:00"),  # nine in the evening: the next morning
        ("2026-07-02T01:00", "2026-07-02T06:00"),  # after midnight: the same morning
        ("2026-10-24T20:00", "2026-10-25T07:00"),  # the night has an hour more
    ],
)
def test_a_time_in_the_quiet_hours_moves_to_the_morning(after: str, expected: str) -> None:
    assert next_local(utc(after), BERLIN, None, EVERY_DAY, NIGHT) == utc(expected)


def test_a_time_within_the_quiet_hours_moves_to_their_end() -> None:
    assert next_local(utc("2026-07-01T12:00"), BERLIN, time(23), EVERY_DAY, NIGHT) == utc("2026-07-02T06:00")
    assert next_local(utc("2026-07-01T09:00"), BERLIN, time(13), EVERY_DAY, (time(12), time(14))) == utc(
        "2026-07-01T12:00"
    )


def test_no_possible_time_is_an_error() -> None:
    with pytest.raises(ValueError, match="weekday"):
        next_local(utc("2026-07-01T12:00"), BERLIN, time(9), (), NEVER)
    with pytest.raises(ValueError, match="quiet hours leave"):
        next_local(utc("2026-07-01T12:00"), BERLIN, time(23), (5,), NIGHT)


def test_an_unknown_zone_is_utc() -> None:
    for name in (None, "", "Mars/Olympus", "../../etc/passwd", "Europe"):
        assert zone_of(name).key == "UTC"


@given(
    after=st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis wants them naive
    zone=st.sampled_from([BERLIN, NEW_YORK, LORD_HOWE, ZoneInfo("Pacific/Apia"), ZoneInfo("UTC")]),
    at=st.times(),
    days=st.sets(st.integers(1, 7), min_size=1),
)
def test_the_result_is_within_eight_days_on_a_given_weekday(
    after: datetime, zone: ZoneInfo, at: time, days: set[int]
) -> None:
    moment = next_local(after, zone, at, days, NEVER)
    assert after < moment <= after + timedelta(days=8, hours=3)
    local = moment.astimezone(zone)
    assert local.isoweekday() in days
    skipped = local.replace(tzinfo=None) - datetime.combine(local.date(), at)
    assert timedelta() <= skipped <= timedelta(hours=1)


@pytest.mark.parametrize(
    ("quiet", "at", "expected"),
    [
        ((time(9), time(12)), time(9), time(12)),  # the beginning is quiet
        ((time(9), time(12)), time(12), time(12)),  # the end is not
        ((time(21), time(8)), time(8), time(8)),  # also across midnight
        ((time(21), time(8)), time(7, 59), time(8)),
    ],
)
def test_quiet_hours_include_their_beginning_and_not_their_end(
    quiet: tuple[time, time], at: time, expected: time
) -> None:
    found = next_local(datetime(2026, 3, 2, tzinfo=UTC), ZoneInfo("UTC"), at, range(1, 8), quiet)
    assert found == datetime.combine(date(2026, 3, 2), expected, UTC)
    assert found.tzinfo is UTC


@pytest.mark.parametrize("weekdays", [[], [0], [8], [0, 8]])
def test_without_a_valid_weekday_there_is_no_time(weekdays: list[int]) -> None:
    with pytest.raises(ValueError, match=r"^weekdays needs a number from 1 \(Monday\) to 7 \(Sunday\)$"):
        next_local(datetime(2026, 3, 2, tzinfo=UTC), ZoneInfo("UTC"), None, weekdays, (time(0), time(0)))


def test_today_is_the_day_of_the_zone() -> None:
    """23:30 in UTC on Sunday is Monday in Auckland."""
    sunday = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
    found = next_local(sunday, ZoneInfo("Pacific/Auckland"), None, [1], (time(0), time(0)))
    assert found == sunday


def test_a_day_that_has_begun_in_utc_alone_is_not_skipped() -> None:
    """02:00 in UTC on Monday is Sunday evening in New York."""
    monday = datetime(2026, 3, 2, 2, tzinfo=UTC)
    found = next_local(monday, ZoneInfo("America/New_York"), time(23), range(1, 8), (time(0), time(0)))
    assert found == datetime(2026, 3, 2, 4, tzinfo=UTC)


@pytest.mark.parametrize("begins", [time(0), time(23)])
def test_the_end_of_quiet_hours_that_occurs_twice_moves_nothing_back(begins: time) -> None:
    """In London, 01:30 occurs again an hour later when summer time ends."""
    again = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert next_local(again, ZoneInfo("Europe/London"), None, range(1, 8), (begins, time(1, 30))) == again
