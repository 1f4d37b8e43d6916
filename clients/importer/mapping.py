"""Reads mapping files, which map columns to attributes (docs/importing.md)."""

from __future__ import annotations

import difflib
import re
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients.importer.consents import Grant, InvalidConsentError, parse_grant
from clients.importer.encodings import AN_ENCODING, is_encoding
from clients.importer.fields import FieldRule, is_group, parse_field
from clients.importer.options import KINDS, ImportStoppedError, Kind
from clients.importer.records import is_delimiter
from clients.importer.sources import is_in
from clients.importer.templates import InvalidTemplateError
from clients.importer.values import A_ZONE, InvalidValueError, is_zone

LINE, MAPPING = "line", "mapping"
"""Further names in templates: the row's line in the file, and the mapping's `name`."""
_MOST_SHOWN = 200
"""Characters of columns' names in an error."""
_TOP = ("kind", "name", "key", "delimiter", "encoding", "timezone", "historical", "fields", "consents")


@dataclass(frozen=True)
class ImportMapping:
    """A valid mapping file."""

    path: Path
    text: str = field(repr=False)
    kind: Kind
    name: str | None
    """The value of `{mapping}`."""
    key: str | None
    """The field by which rows are grouped. None: each row is an item."""
    delimiter: str | None
    encoding: str | None
    timezone: str | None
    """IANA name of the zone of times without an offset."""
    historical: bool
    """Old data, which starts no workflow."""
    fields: tuple[FieldRule, ...]
    grants: tuple[Grant, ...]
    """Consents of every person of the file."""

    def check_columns(self, columns: Iterable[str]) -> None:
        """Raises :class:`ImportStoppedError` if a field uses a column that isn't in ``columns``."""
        known = list(columns)
        for rule in self.fields:
            for column in rule.template.columns if rule.template else ():
                if column == LINE or is_in(column, known):
                    continue
                if column == MAPPING:
                    self._check_name(rule)
                else:
                    near = difflib.get_close_matches(column, known, 1)
                    hint = f"did you mean '{near[0]}'?" if near else f"it has: {_listed(known)}"
                    raise self.error_for(
                        rule.name, f"uses the column '{column}', which the file doesn't have; {hint}"
                    )

    def _check_name(self, rule: FieldRule) -> None:
        if self.name is None:
            raise self.error_for(rule.name, f"uses {{{MAPPING}}}: give the mapping a 'name' at its top")

    def columns(self) -> set[str]:
        """The columns that the fields use."""
        return self.references() - {LINE, MAPPING}

    def references(self) -> set[str]:
        """The names in the fields' templates."""
        return {column for rule in self.fields if rule.template for column in rule.template.columns}

    @property
    def keep_recorded(self) -> list[str]:
        """Purposes of consents in profiles that leave recorded decisions as they are."""
        if self.kind.consents_first:  # no profiles
            return []
        return [rule.kept_purpose for rule in self.fields if rule.kept_purpose]

    def error_for(self, name: str, sentence: str) -> ImportStoppedError:
        """An error that names the field's line in the mapping file. ``sentence`` continues after its name."""
        return _error_for(self.path, self.text, name, sentence)


def load_mapping(path: Path) -> ImportMapping:
    """Read a mapping file. Raises :class:`ImportStoppedError`, whose text names the line."""
    text = _read(path)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ImportStoppedError(f"{path}: this isn't valid TOML: {error}.") from None
    for name in document:
        if name not in _TOP:
            raise _error_for(path, text, name, f"is unknown here; a mapping has {', '.join(_TOP)}")
    kind = _kind(path, text, document)
    fields = document.get("fields")
    if not isinstance(fields, dict) or not fields:
        raise ImportStoppedError(f"{path}: the table [fields] is missing; it maps columns to attributes.")
    rules = tuple(_rule(path, text, name, value) for name, value in _flat(fields))
    _check_overlaps(path, text, rules)
    mapping = ImportMapping(
        path,
        text,
        kind,
        name=document.get("name"),
        key=document.get("key"),
        delimiter=document.get("delimiter"),
        encoding=document.get("encoding"),
        timezone=document.get("timezone"),
        historical=document.get("historical", False),
        fields=rules,
        grants=_grants(path, text, document.get("consents", {})),
    )
    _check_whole(mapping)
    return mapping


def _listed(columns: Iterable[str]) -> str:
    """The columns' names, or the first of them. A file in another encoding may be one line, with people's data."""
    return textwrap.shorten(", ".join(columns), _MOST_SHOWN, placeholder=" ...")


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise ImportStoppedError(f"The mapping {path} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ImportStoppedError(f"The mapping {path} isn't UTF-8 text.") from None


def _kind(path: Path, text: str, document: Mapping[str, Any]) -> Kind:
    name = document.get("kind")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        possible = " or ".join(f'"{known}"' for known in KINDS)
        raise _error_for(path, text, "kind", f"must be {possible}")
    return kind


def _check_whole(mapping: ImportMapping) -> None:
    names = [rule.name for rule in mapping.fields]
    for needed in mapping.kind.needed:
        if needed not in names:
            raise ImportStoppedError(f"{mapping.path}: [fields] must define '{needed}'.")
    if mapping.key is not None and mapping.key not in names:
        raise mapping.error_for("key", "must be the name of one of the fields")
    if mapping.delimiter is not None and not is_delimiter(mapping.delimiter):
        raise mapping.error_for("delimiter", "must be a single character, and no quote or line end")
    if mapping.encoding is not None and not is_encoding(mapping.encoding):
        raise mapping.error_for("encoding", f"must be {AN_ENCODING}")
    if mapping.timezone is not None and not is_zone(mapping.timezone):
        raise mapping.error_for("timezone", f"must be {A_ZONE}")
    if not isinstance(mapping.historical, bool) or (mapping.historical and not mapping.kind.may_be_historical):
        raise mapping.error_for("historical", "must be true or false, and applies to events only")
    if mapping.name is not None and not (isinstance(mapping.name, str) and mapping.name.strip()):
        raise mapping.error_for("name", "must be a text")


def _grants(path: Path, text: str, consents: object) -> tuple[Grant, ...]:
    if not isinstance(consents, dict):
        raise _error_for(path, text, "consents", "must be a table")
    grants = []
    for purpose, value in consents.items():
        try:
            grants.append(parse_grant(purpose, value))
        except InvalidConsentError as error:
            raise _error_for(path, text, purpose, str(error)) from None
    return tuple(grants)


def _check_overlaps(path: Path, text: str, rules: Iterable[FieldRule]) -> None:
    seen: set[tuple[str, ...]] = set()
    inner: set[tuple[str, ...]] = set()
    for rule in rules:
        above = {rule.path[:length] for length in range(1, len(rule.path))}
        if rule.path in seen | inner or above & seen:
            raise _error_for(path, text, rule.name, "is set twice, as a value and as a group or by two names")
        seen.add(rule.path)
        inner |= above


def _flat(fields: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Attributes by dotted name, whether the file uses dotted names or nested tables."""
    for name, value in fields.items():
        if is_group(value):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value


def _rule(path: Path, text: str, name: str, value: object) -> FieldRule:
    parts = tuple(name.split("."))
    try:
        if not all(parts):
            raise InvalidTemplateError("has an empty part in its name")
        return parse_field(parts, value)
    except (InvalidTemplateError, InvalidValueError) as error:
        raise _error_for(path, text, name, str(error).rstrip(".")) from None


def _error_for(path: Path, text: str, name: str, sentence: str) -> ImportStoppedError:
    line = _line_of(text, name)
    place = f"{path}, line {line}" if line else f"{path}"
    return ImportStoppedError(f"{place}: '{name}' {sentence}.".replace("?.", "?"))


def _line_of(text: str, name: str) -> int | None:
    """The line of a key, which tomllib doesn't report. None if the key is written in an unusual way."""
    for key in (name, name.rpartition(".")[2]):
        pattern = re.compile(rf"""^\s*\[?["']?{re.escape(key)}["']?\s*[=\]]""")
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.match(line):
                return number
    return None
