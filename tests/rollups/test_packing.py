"""Packing changes nothing, and folding depends on no order and no division."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.rules.entries import Entries, by_person_and_time, net, of_delta, pack, unpack
from models.rules.rollups import Delta, SessionChange, hour_counts, joined, session_counts, unpacked

AT = st.integers(1_700_000_000_000_000, 1_900_000_000_000_000)
EVENT = st.tuples(
    *(st.integers(1, 4), st.integers(0, 3), AT, st.integers(0, 3)),
    st.none() | st.decimals(0, 10**20, places=6, allow_nan=False),
)
EVENTS = st.lists(EVENT, max_size=30)
ENTRIES = st.lists(
    st.tuples(st.integers(1, 2**32 - 1), AT, st.integers(0, 70_000), st.integers(0, 1)), min_size=1, max_size=400
)


def delta(events: list[Any]) -> Delta:
    money = [place for place, each in enumerate(events) if each[4] is not None]
    return Delta(
        series=np.array([each[0] for each in events], np.uint32),
        persons=np.array([each[1] for each in events], np.uint32),
        times=np.array([each[2] for each in events], np.int64),
        flags=np.array([each[3] for each in events], np.uint8),
        money=np.array(money, np.uint32),
        amounts=[each[4] for each in events if each[4] is not None],
        sessions=np.array([SessionChange(1, 2, 3)], np.int64),
    )


def columns(entries: Entries) -> Counter[tuple[int, ...]]:
    held = (entries.persons, entries.times, entries.series, entries.active)
    return Counter(zip(*(each.tolist() for each in held), strict=True))


@given(EVENTS, st.integers(0, 30))
def test_folding_depends_on_no_division(events: list[Any], cut: int) -> None:
    whole = delta(events)
    parts = joined([unpacked(delta(events[:cut]).packed()), unpacked(delta(events[cut:]).packed())])
    assert hour_counts(parts) == hour_counts(whole)
    assert [columns(each) for each in of_delta(parts)] == [columns(each) for each in of_delta(whole)]
    assert session_counts(parts)[0][1:] == (4, Decimal("0.000006"))
    total = sum((-1 if each[3] & 2 else 1) * each[4] for each in events if each[4] is not None)
    assert sum(each.amount for each in hour_counts(whole) if each.amount is not None) == total


@given(ENTRIES)
def test_a_run_has_what_was_packed(drawn: list[Any]) -> None:
    kinds = (np.uint32, np.int64, np.uint32, np.uint8)
    found = Entries(*(np.array(each, kind) for each, kind in zip(zip(*drawn, strict=True), kinds, strict=True)))
    ordered = found.ordered()
    ordered = ordered.where(ordered.times - ordered.times.min() < 2**48)
    assert columns(unpack(pack(ordered))) == columns(ordered)
    persons, times = by_person_and_time(found.persons, found.times)
    assert list(zip(persons.tolist(), times.tolist(), strict=True)) == sorted((each[0], each[1]) for each in drawn)
    kept, rest = net(found, found.where(slice(0, 3)))
    assert columns(kept) == columns(found) - columns(found.where(slice(0, 3)))
    assert not len(rest)
