"""Assigns events to series: an event type with the values of its dimensions, in a bounded number.

A dimension of a type has at most ``most`` values; every further value counts as :data:`OTHER`. A type has at most
ten times as many combinations without `(other)`, and as many with one. Beyond that the declared dimensions become
`(other)`, then all dimensions.
The currency of money is never replaced, since amounts of two currencies can't be added.

Known series are only ever added, and a limit that is reached stays reached. So two processes, one of which knows
fewer series, give an event the same series or ask the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

OTHER = "(other)"
CURRENCY = "currency"
DIMENSION_VALUES = 1000
"""The default of ``PERENNIAL_DIMENSION_VALUES``."""
STANDARD = frozenset({"country", "device_type"})
"""Dimensions of every type. The others are declared."""
COMBINATIONS = 10
"""Combinations of a type, as a multiple of the values of a dimension."""


class SeriesKey(NamedTuple):
    """What determines an event's series."""

    event_type: str
    dimensions: str | None
    """A JSON object, as Postgres writes it; None without any."""
    currency: str | None = None
    """Of an event with an amount."""

    def values(self) -> dict[str, Any]:
        """The values by name, without the currency of an amount."""
        found: dict[str, Any] = {} if self.dimensions is None else orjson.loads(self.dimensions)
        if self.currency is not None:
            found.pop(CURRENCY, None)
        return {name: _normal(value) for name, value in found.items()}


def canonical(dimensions: Mapping[str, Any]) -> bytes:
    """Dimensions as a key. Equal dimensions have the same."""
    return orjson.dumps(dimensions, option=orjson.OPT_SORT_KEYS)


def _normal(value: Any) -> Any:
    # Postgres has one number for 1 and 1.0.
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass
class TypeSeries:
    """The known series of an event type."""

    most: int
    ids: dict[bytes, int] = field(default_factory=dict)
    """By :func:`canonical` dimensions."""
    _values: dict[str, set[bytes]] = field(default_factory=dict)
    _exact: int = 0
    _partial: int = 0

    def add(self, series_id: int, dimensions: Mapping[str, Any]) -> None:
        key = canonical(dimensions)
        if key in self.ids:
            return
        self.ids[key] = series_id
        for name, value in dimensions.items():
            if value != OTHER:
                self._values.setdefault(name, set()).add(orjson.dumps(value))
        others = [value == OTHER for name, value in dimensions.items() if name != CURRENCY]
        if not any(others):
            self._exact += 1
        elif not all(others):
            self._partial += 1

    def find(self, key: SeriesKey) -> int | None:
        """The series of an event, if it is known."""
        return self.ids.get(canonical(self.bounded(key)))

    def bounded(self, key: SeriesKey) -> dict[str, Any]:
        """The dimensions of an event's series, within the limits."""
        values = key.values()
        found = {name: value if self._has_room(name, value) else OTHER for name, value in values.items()}
        own = {} if key.currency is None else {CURRENCY: key.currency}
        if OTHER not in found.values() and self._is_new(found | own) and self._exact >= self.most * COMBINATIONS:
            kept = {name: value for name, value in found.items() if name in STANDARD}
            found = dict.fromkeys(found, OTHER) | (kept if len(kept) < len(found) else {})
        if OTHER in found.values() and self._is_new(found | own) and self._partial >= self.most * COMBINATIONS:
            found = dict.fromkeys(found, OTHER)
        return found | own

    def full(self) -> list[str]:
        """The dimensions whose further values become `(other)`."""
        return sorted(name for name, values in self._values.items() if len(values) >= self.most)

    def _has_room(self, name: str, value: Any) -> bool:
        known = self._values.get(name, ())
        return len(known) < self.most or orjson.dumps(value) in known

    def _is_new(self, dimensions: Mapping[str, Any]) -> bool:
        return canonical(dimensions) not in self.ids


class SeriesCache:
    """The series that a process knows. Add only what is committed."""

    MOST_KEYS = 50_000
    """Beyond it the look-ups by JSON text are forgotten; the series are bounded by themselves."""

    def __init__(self, most_values: int) -> None:
        self.most_values = most_values
        self._ids: dict[SeriesKey, int] = {}
        self._types: dict[str, TypeSeries] = {}

    def resolve(self, keys: Iterable[SeriesKey]) -> tuple[dict[SeriesKey, int], list[SeriesKey]]:
        """The ids that are known, and the keys whose series must be registered."""
        found: dict[SeriesKey, int] = {}
        missing = []
        for key in keys:
            series_id = self._ids.get(key)
            if series_id is None:
                known = self._types.get(key.event_type)
                series_id = known.find(key) if known is not None else None
                if series_id is None:
                    missing.append(key)
                    continue
                self._remember(key, series_id)
            found[key] = series_id
        return found, missing

    def add(self, types: Mapping[str, TypeSeries], ids: Mapping[SeriesKey, int]) -> None:
        """Take over what a committed transaction has registered."""
        self._types.update(types)
        for key, series_id in ids.items():
            self._remember(key, series_id)

    def _remember(self, key: SeriesKey, series_id: int) -> None:
        if len(self._ids) >= self.MOST_KEYS:
            self._ids.clear()
        self._ids[key] = series_id
