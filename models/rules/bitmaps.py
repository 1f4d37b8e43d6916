"""The people who were active, by day (UTC), as roaring bitmaps: of any type, of each, by country and device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np
from pyroaring import BitMap

from models.rules.entries import Entries
from models.rules.rollups import DAY, I64, U32

ANY = "*"
DIMENSIONS = ("country", "device_type")
"""Dimensions by which the people of any type are kept."""


class Series(NamedTuple):
    """A series, as the compactor reads it."""

    event_type: str
    dimensions: Mapping[str, Any]


class Group(NamedTuple):
    """The key of a bitmap."""

    day: date
    event_type: str
    dimension: str
    value: str


def groups(entries: Entries, series: Mapping[int, Series]) -> Iterator[tuple[Group, BitMap]]:
    """The bitmaps of entries with activity; ``series`` has all of theirs."""
    active = entries.where(entries.active == 1)
    if not len(active):
        return
    days = active.times // DAY
    ids, places = np.unique(active.series, return_inverse=True)
    found = [series[each] for each in ids.tolist()]
    yield from _grouped(days, np.zeros(len(days), np.int64), active.persons, [(ANY, "", "")])
    yield from _by(days, places, active.persons, [(each.event_type, "", "") for each in found])
    for name in DIMENSIONS:
        values = [each.dimensions.get(name) for each in found]
        yield from _by(days, places, active.persons, [None if v is None else (ANY, name, str(v)) for v in values])


def _by(
    days: I64, places: I64, persons: U32, keys: list[tuple[str, str, str] | None]
) -> Iterator[tuple[Group, BitMap]]:
    """By day and key; ``places`` are those of the entries' keys. Entries without a key are left out."""
    names = sorted({key for key in keys if key is not None})
    number = {key: place for place, key in enumerate(names)}
    codes = np.array([-1 if key is None else number[key] for key in keys], np.int64)[places]
    chosen = codes >= 0
    yield from _grouped(days[chosen], codes[chosen], persons[chosen], names)


def _grouped(
    days: I64, codes: I64, persons: U32, names: list[tuple[str, str, str]]
) -> Iterator[tuple[Group, BitMap]]:
    if not len(days):
        return
    keys = days * len(names) + codes
    order = np.argsort(keys, kind="stable")
    found, starts = np.unique(keys[order], return_index=True)
    ordered = persons[order]
    for key, start, end in zip(found.tolist(), starts, [*starts[1:], len(ordered)], strict=True):
        day, code = divmod(key, len(names))
        people = BitMap(ordered[start:end])
        yield Group(date(1970, 1, 1) + timedelta(days=day), *names[code]), people
