"""Packs, sorts and filters the entries of the rollups' index: person, time, series and activity of each event.

A run is sorted by person and time. It is packed by columns, at about seven bytes an event and eight a person, and
unpacked without a loop.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt

from models.rules.rollups import ACTIVITY, I64, MINUS, NOBODY, U8, U32, Delta

PART_BITS = 14
"""A part has 16,384 persons."""
EVERYBODY = -1
"""The part of runs that are not divided by persons."""
_HEAD = struct.Struct("<BIIqI")
_VERSION = 1
_WIDTHS: Mapping[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Entries:
    """Events by column."""

    persons: U32
    times: I64
    """Microseconds since 1970."""
    series: U32
    active: U8
    """1 for activity of the person."""

    def __len__(self) -> int:
        return len(self.persons)

    def where(self, chosen: _Mask | I64 | slice) -> Entries:
        """The entries of a mask, or of places in their order."""
        return Entries(self.persons[chosen], self.times[chosen], self.series[chosen], self.active[chosen])

    def ordered(self) -> Entries:
        return self.where(np.lexsort((self.active, self.series, self.times, self.persons)))

    def parts(self) -> Iterator[tuple[int, Entries]]:
        """By part of persons; for ordered entries."""
        yield from _divided(self, (self.persons >> PART_BITS).astype(np.int64))

    def by_month(self) -> Iterator[tuple[date, Entries]]:
        months = self.times.astype("M8[us]").astype("M8[M]").astype(np.int64)
        order = np.argsort(months, kind="stable")
        for month, entries in _divided(self.where(order), months[order]):
            yield date(1970 + month // 12, month % 12 + 1, 1), entries


def _divided(entries: Entries, keys: I64) -> Iterator[tuple[int, Entries]]:
    found, starts = np.unique(keys, return_index=True)
    ends = [*starts[1:], len(keys)] if len(keys) else []
    for key, start, end in zip(found.tolist(), starts, ends, strict=True):
        yield key, entries.where(slice(start, end))


def joined(runs: Sequence[Entries]) -> Entries:
    return Entries(
        np.concatenate([each.persons for each in runs]),
        np.concatenate([each.times for each in runs]),
        np.concatenate([each.series for each in runs]),
        np.concatenate([each.active for each in runs]),
    )


def of_delta(delta: Delta) -> tuple[Entries, Entries]:
    """The entries that a delta adds, and those that it removes, without the ones that it adds and removes."""
    known = delta.persons != NOBODY
    entries = Entries(delta.persons, delta.times, delta.series, (delta.flags & ACTIVITY).astype(np.uint8)).where(
        known
    )
    minus = (delta.flags[known] & MINUS) != 0
    if not minus.any():
        return entries, entries.where(minus)
    return net(entries.where(~minus), entries.where(minus))


def net(added: Entries, removed: Entries) -> tuple[Entries, Entries]:
    """``added`` without ``removed``, and what is left of ``removed``; both ordered. Equal entries count."""
    entries = joined([added, removed])
    order = np.lexsort((entries.active, entries.series, entries.times, entries.persons))
    entries = entries.where(order)
    signs = np.concatenate([np.ones(len(added), np.int64), np.full(len(removed), -1, np.int64)])[order]
    if not len(entries):
        return entries, entries
    columns = (entries.persons, entries.times, entries.series, entries.active)
    starts = np.flatnonzero(np.r_[True, np.any([each[1:] != each[:-1] for each in columns], axis=0)])
    sums = np.add.reduceat(signs, starts)
    more, less = np.maximum(sums, 0), np.maximum(-sums, 0)
    return entries.where(np.repeat(starts, more)), entries.where(np.repeat(starts, less))


def pack(entries: Entries) -> bytes:
    """A run of ordered entries."""
    persons, counts = np.unique(entries.persons, return_counts=True)
    series, places = np.unique(entries.series, return_inverse=True)
    base = int(entries.times.min())
    offsets = (entries.times - base).astype(np.uint64)
    if int(offsets.max()) >> 48:
        raise ValueError("the times of a run must lie within eight years")
    width = 1 if len(series) <= 0x100 else 2 if len(series) <= 0x10000 else 4
    return b"".join(
        (
            _HEAD.pack(_VERSION, len(entries), len(persons), base, len(series)),
            persons.astype("<u4").tobytes(),
            counts.astype("<u4").tobytes(),
            series.astype("<u4").tobytes(),
            (offsets & np.uint64(0xFFFF_FFFF)).astype("<u4").tobytes(),
            (offsets >> np.uint64(32)).astype("<u2").tobytes(),
            places.astype(_WIDTHS[width]).tobytes(),
            np.packbits(entries.active).tobytes(),
        )
    )


def unpack(run: bytes) -> Entries:
    """The entries of :func:`pack`. Raises ValueError for another version."""
    version, events, people, base, known = _HEAD.unpack_from(run)
    if version != _VERSION:
        raise ValueError(f"a run of version {version} is not known")
    width = 1 if known <= 0x100 else 2 if known <= 0x10000 else 4
    at = _HEAD.size

    def column(kind: str | np.dtype[Any], count: int) -> npt.NDArray[Any]:
        nonlocal at
        found = np.frombuffer(run, kind, count, at)
        at += found.nbytes
        return found

    persons, counts, series = column("<u4", people), column("<u4", people), column("<u4", known)
    low, high, places = column("<u4", events), column("<u2", events), column(_WIDTHS[width], events)
    active = np.unpackbits(column("u1", (events + 7) // 8).astype(np.uint8), count=events)
    times = (high.astype(np.int64) << 32) | low.astype(np.int64)
    return Entries(
        np.repeat(persons.astype(np.uint32), counts.astype(np.int64)),
        times + base,
        series.astype(np.uint32)[places.astype(np.int64)],
        active,
    )


def people_of(run: bytes) -> U32:
    """The persons of a packed run, without unpacking the rest."""
    _, _, people, _, _ = _HEAD.unpack_from(run)
    return np.frombuffer(run, "<u4", people, _HEAD.size)


def by_person_and_time(persons: U32, times: I64) -> tuple[U32, I64]:
    """Sort persons and times. Half as long as a sort by two columns, while both fit into 64 bits."""
    if not len(times):
        return persons, times
    base = int(times.min())
    bits = (int(times.max()) - base).bit_length()
    if bits + int(persons.max()).bit_length() > 64:
        order = np.lexsort((times, persons))
        return persons[order], times[order]
    keys = (persons.astype(np.uint64) << np.uint64(bits)) | (times - base).astype(np.uint64)
    keys.sort()
    rest = keys & np.uint64((1 << bits) - 1)
    return (keys >> np.uint64(bits)).astype(np.uint32), rest.astype(np.int64) + base
