"""Makes items from rows: one for each row, or one for all rows with the same key."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from clients.importer.fields import FieldRule, Pick
from clients.importer.mapping import LINE, MAPPING, ImportMapping
from clients.importer.options import PERSON
from clients.importer.sources import NOT_TEXT, Row, has_column, text_of
from clients.importer.values import (
    InvalidValueError,
    LocalTimes,
    Problem,
    Value,
    ValueType,
    as_json,
    convert,
    shifted,
)


@dataclass(frozen=True, slots=True)
class Item:
    """A profile or an event, made from one or more rows."""

    identity: str
    person: str
    """The user's id."""
    body: bytes
    """JSON."""
    lines: Sequence[int]
    """The rows that it was made from."""


@dataclass(frozen=True, slots=True)
class UnusableRows:
    """Rows that make no item."""

    problems: Mapping[int, Sequence[Problem]]
    """By line."""


@dataclass(slots=True)
class _Draft:
    values: list[Value | None]
    lines: array[int] = field(default_factory=lambda: array("Q"))
    problems: dict[int, list[Problem]] = field(default_factory=dict)


class Assembler:
    def __init__(self, mapping: ImportMapping, shift_days: int, times: LocalTimes | None = None) -> None:
        """``times`` has the zone of times without an offset, and counts those that were read without one."""
        self._times = times or LocalTimes()
        self._rules = mapping.fields
        if self._times.zone:
            self._rules = tuple(_as_time(rule, mapping.kind.time) for rule in mapping.fields)
        self._shift_days = shift_days
        self._name = mapping.name or ""
        names = [rule.name for rule in mapping.fields]
        self._identity = names.index(mapping.kind.identity)
        self._person = names.index(PERSON)
        self._never_empty = {self._identity, self._person}
        self._key = names.index(mapping.key) if mapping.key is not None else None

    def items(self, rows: Iterable[Row]) -> Iterator[Item | UnusableRows]:
        """Items in the order of their first row. With a key, they follow only after all rows were read."""
        if self._key is None:
            for row in rows:
                draft, problem = self._draft(), row.problem
                if problem is None:
                    self._add(draft, row, self._read(row))
                yield UnusableRows({row.line: [problem]}) if problem else self._finish(draft)
            return
        drafts: dict[Value, _Draft] = {}
        for row in rows:
            unusable = self._collect(drafts, row, self._key)
            if unusable is not None:
                yield unusable
        while drafts:  # popped one by one: memory shrinks while they are sent
            yield self._finish(drafts.pop(next(iter(drafts))))

    def _collect(self, drafts: dict[Value, _Draft], row: Row, key: int) -> UnusableRows | None:
        if row.problem is not None:
            return UnusableRows({row.line: [row.problem]})
        read = self._read(row)
        identity = read[key]
        if isinstance(identity, Problem):
            return UnusableRows({row.line: [identity]})
        if identity is None:
            return UnusableRows({row.line: [_required(self._rules[key])]})
        draft = drafts.get(identity)
        if draft is None:
            draft = drafts[identity] = self._draft()
        self._add(draft, row, read)
        return None

    def _draft(self) -> _Draft:
        return _Draft([None] * len(self._rules))

    def _read(self, row: Row) -> list[Value | Problem | None]:
        return [self._value(rule, row) for rule in self._rules]

    def _text(self, row: Row, column: str) -> str:
        # a column of the file with the name `line` or `mapping` takes precedence
        if column == LINE and not has_column(row.values, column):
            return row.came_from or str(row.line)
        if column == MAPPING and not has_column(row.values, column):
            return self._name
        return text_of(row.values, column)

    def _value(self, rule: FieldRule, row: Row) -> Value | Problem | None:
        if rule.template is None:
            return rule.default
        try:
            text = rule.template.render(lambda column: self._text(row, column))
            if text is None:
                return None
            if rule.values is not None:
                if text not in rule.values:
                    raise InvalidValueError("not_in_map", "The mapping's map doesn't list this value.")
                text = rule.values[text]
            value = convert(text, rule.type, rule.pattern, self._times)
            return shifted(value, self._shift_days) if rule.shift else value
        except InvalidValueError as error:
            return Problem(rule.pointer, error.code, error.message)
        except LookupError:
            return Problem(rule.pointer, "not_a_value", "The column holds an object or a list.")

    def _add(self, draft: _Draft, row: Row, read: Sequence[Value | Problem | None]) -> None:
        draft.lines.append(row.line)
        for index, (rule, value) in enumerate(zip(self._rules, read, strict=True)):
            if isinstance(value, Problem):
                draft.problems.setdefault(row.line, []).append(value)
            elif value is not None:
                draft.values[index] = _picked(rule.pick, draft.values[index], value)

    def _finish(self, draft: _Draft) -> Item | UnusableRows:
        if draft.problems:
            return _reject_all_rows(draft)
        document: dict[str, Any] = {}
        for rule, picked in zip(self._rules, draft.values, strict=True):
            value = rule.default if picked is None else picked
            if value is not None:
                _place(document, rule.path, as_json(value))
        missing = [
            _required(rule)
            for index, (rule, picked) in enumerate(zip(self._rules, draft.values, strict=True))
            if picked is None and (index in self._never_empty or (rule.required and rule.default is None))
        ]
        if missing:
            return UnusableRows(dict.fromkeys(draft.lines, missing))
        try:
            body = orjson.dumps(document)
        except TypeError:  # a lone surrogate, from an escape in JSON
            return UnusableRows(dict.fromkeys(draft.lines, (NOT_TEXT,)))
        identity, person = draft.values[self._identity], draft.values[self._person]
        return Item(str(identity), str(person), body, draft.lines)


def _as_time(rule: FieldRule, name: str) -> FieldRule:
    return replace(rule, type=ValueType.TIMESTAMP) if rule.name == name and rule.template else rule


def _reject_all_rows(draft: _Draft) -> UnusableRows:
    # all of them, so that the rejects file contains the complete item
    first = min(draft.problems)
    other = Problem("", "item_rejected", f"Line {first} of the same item can't be used.")
    return UnusableRows({line: draft.problems.get(line, [other]) for line in draft.lines})


def _picked(pick: Pick, held: Value | None, value: Value) -> Value:
    if held is None or pick is Pick.LAST:
        return value
    if pick is Pick.FIRST:
        return held
    choose = min if pick is Pick.MIN else max
    return choose(held, value)  # both are of the rule's one type


def _place(document: dict[str, Any], path: Sequence[str], value: object) -> None:
    for part in path[:-1]:
        document = document.setdefault(part, {})
    document[path[-1]] = value


def _required(rule: FieldRule) -> Problem:
    return Problem(rule.pointer, "required", "This attribute is required, and its columns are empty.")
