"""What of an event may be stored, and what of it is shown to those who may not see whom it is about.

Stored: a demographic attribute that the person's preferences forbid is taken out, at whatever depth: of `location`
and `device_info` under its own name and those under which it usually travels, of properties, where such names may
be anything's, under its own. Shown: what is declared personal is masked, and so is every text that no schema
describes, since nobody has said what it holds, every number that may be somebody's, and every value under a
demographic attribute's name. Of `location`, `device_info` and `referrer`, which have no schema, only known codes,
kinds and versions are shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from models.personal import PROPERTY_NAME, Mask
from models.rules.event_types import EventType
from models.wire.countries import COUNTRIES

Masker = Callable[[Mask, Any], Any]

_TRAVELS_AS: Mapping[str, frozenset[str]] = {
    "age": frozenset({"age"}),
    "date_of_birth": frozenset({"date_of_birth", "birthday", "birth_date"}),
    "gender": frozenset({"gender", "sex"}),
    "country": frozenset({"country", "country_code", "country_name"}),
    "city": frozenset(
        {"city", "town", "postal_code", "postcode", "zip", "zip_code", "street", "address"}
        | {"coordinates", "geo_point", "latitude", "longitude", "lat", "lon", "lng"}
    ),
    "timezone": frozenset({"timezone", "time_zone", "tz"}),
    "language": frozenset({"language", "lang", "locale"}),
    "device_type": frozenset({"device_type", "type", "form_factor"}),
}
"""Names by demographic attribute, in lower case. Who may not know the city may not know the coordinates."""
_DEMOGRAPHIC_NAMES = frozenset[str]().union(*_TRAVELS_AS.values())

DEVICE_TYPES = frozenset(
    {"desktop", "laptop", "mobile", "phone", "smartphone", "tablet", "tv", "console"}
    | {"wearable", "watch", "car", "bot", "web", "ios", "android", "other"}
)
_SYSTEMS = frozenset(
    {"ios", "ipados", "android", "windows", "macos", "linux", "chromeos", "harmonyos"}
    | {"chrome", "safari", "firefox", "edge", "opera", "brave", "samsung internet"}
)
_VERSION = re.compile(r"[0-9]{1,5}(\.[0-9]{1,7}){0,3}", re.ASCII)
_VERSIONS = frozenset({"os_version", "browser_version", "app_version", "sdk_version"})
_KNOWN_VALUES: Mapping[str, Collection[str]] = {
    "country": {code.lower() for code in COUNTRIES},
    "country_code": {code.lower() for code in COUNTRIES},
    "device_type": DEVICE_TYPES,
    "type": DEVICE_TYPES,
    "platform": _SYSTEMS | DEVICE_TYPES,
    "os": _SYSTEMS,
    "browser": _SYSTEMS,
}
"""What is shown of `location` and `device_info`, by name, in lower case: values that many people share."""
_WHERE_PEOPLE_ARE = ("location", "device_info")


def forbidden_names(preferences: Mapping[str, bool] | None) -> frozenset[str]:
    """The names under which what a person's preferences forbid may travel; empty where they forbid nothing."""
    if not preferences:
        return frozenset()
    refused = (
        _TRAVELS_AS.get(name, frozenset({name})) for name, allowed in preferences.items() if allowed is False
    )
    return frozenset().union(*refused)


def without(body: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """An event's body without what a person's preferences forbid."""
    own = {*names} & _TRAVELS_AS.keys()
    return {part: _without(value, names if part in _WHERE_PEOPLE_ARE else own) for part, value in body.items()}


def _without(value: Any, names: Collection[str]) -> Any:
    if isinstance(value, dict):
        return {name: _without(each, names) for name, each in value.items() if _plain(name) not in names}
    if isinstance(value, list):
        return [_without(each, names) for each in value]
    return value


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def standard_dimensions(body: Mapping[str, Any]) -> dict[str, str]:
    """The country and the kind of device of an event, where they are one of the known ones."""
    found = {}
    location, device = body.get("location"), body.get("device_info")
    if location:
        country = location.get("country")
        if isinstance(country, str) and country.upper() in COUNTRIES:
            found["country"] = country.upper()
    if device:
        kind = device.get("device_type")
        if isinstance(kind, str) and kind.lower() in DEVICE_TYPES:
            found["device_type"] = kind.lower()
    return found


def masked(body: Mapping[str, Any], declared: EventType | None, mask: Masker) -> dict[str, Any]:
    """An event's body as those see it who may not see whom it is about."""
    shown = dict(body)
    if body.get("event_properties"):
        shown["event_properties"] = _masked_properties(body["event_properties"], declared, mask)
    if body.get("location"):
        shown["location"] = _only_known(body["location"], mask)
    if body.get("device_info"):
        shown["device_info"] = _only_known(body["device_info"], mask)
    if body.get("referrer"):
        shown["referrer"] = mask(Mask.ALL, body["referrer"])
    return shown


def _masked_properties(properties: Mapping[str, Any], declared: EventType | None, mask: Masker) -> dict[str, Any]:
    shown: Any = properties
    for pointer in declared.pii if declared else ():
        shown = _masked_at(shown, _parts(pointer), mask)
    described: dict[str, Any] = _described(shown, declared.schema if declared else {}, mask)
    return described


def _parts(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _masked_at(value: Any, parts: list[str], mask: Masker) -> Any:
    """The document with what a pointer names masked; one that leads nowhere changes nothing."""
    if not parts:
        return _all_masked(value, mask)
    first, rest = parts[0], parts[1:]
    if isinstance(value, dict) and first in value:
        return {**value, first: _masked_at(value[first], rest, mask)}
    if isinstance(value, list) and first.isdecimal() and int(first) < len(value):
        place = int(first)
        return [*value[:place], _masked_at(value[place], rest, mask), *value[place + 1 :]]
    return value


def _described(value: Any, schema: Any, mask: Masker) -> Any:
    """A value of which a schema describes what it describes; other texts in it are masked."""
    schema = schema if isinstance(schema, Mapping) else {}
    if isinstance(value, dict):
        parts = schema.get("properties")
        parts = parts if isinstance(parts, Mapping) else {}
        known = {name: _described(each, parts[name], mask) for name, each in value.items() if name in parts}
        return {
            **known,
            **_undescribed({name: each for name, each in value.items() if name not in known}, mask),
        }
    if isinstance(value, list):
        items = schema.get("items")
        return [_described(each, items, mask) if items else _undescribed(each, mask) for each in value]
    return value


def _undescribed(value: Any, mask: Masker) -> Any:
    """A value that no schema describes: its texts masked, and whatever travels under a demographic name."""
    if isinstance(value, dict):
        return {
            _name(name, mask): (_all_masked if _plain(name) in _DEMOGRAPHIC_NAMES else _undescribed)(each, mask)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_undescribed(each, mask) for each in value]
    return mask(Mask.ALL if isinstance(value, str) else Mask.TEXTS, value)


def _name(name: str, mask: Masker) -> str:
    """The name of a property, masked where it is no name but data."""
    return name if PROPERTY_NAME.fullmatch(name) else str(mask(Mask.ALL, name))


def _only_known(group: Mapping[str, Any], mask: Masker) -> dict[str, Any]:
    return {_name(name, mask): _of_group(name, value, mask) for name, value in group.items()}


def _of_group(name: str, value: Any, mask: Masker) -> Any:
    if not isinstance(value, str):
        return value if isinstance(value, bool) else _all_masked(value, mask)
    if name == "city":
        return mask(Mask.WORDS, value)
    known = value.lower() in _KNOWN_VALUES.get(name, ()) or (name in _VERSIONS and _VERSION.fullmatch(value))
    return value if known else mask(Mask.ALL, value)


def _all_masked(value: Any, mask: Masker) -> Any:
    """Every value masked; names and shape stay."""
    if isinstance(value, dict):
        return {_name(name, mask): _all_masked(each, mask) for name, each in value.items()}
    return [_all_masked(each, mask) for each in value] if isinstance(value, list) else mask(Mask.ALL, value)
