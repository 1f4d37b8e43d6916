"""Removes attributes that a person opted out of from events, and masks events for roles other than admin.

Removal works at any depth. In `location` and `device_info` it covers an attribute's name and its usual aliases. In
`event_properties` it covers only the name, because an alias may mean something else there.

Masks show only values that are declared not personal. Of `event_properties` these are the values that the event
type's schema describes and `pii` doesn't name:

- numbers, and true or false
- of a standard type: words (:func:`models.rules.personal_text.is_word`)
- of a custom type: texts without an e-mail address or a telephone, card or account number

All others are hidden, also numbers. `location` and `device_info` have no schema: only known codes, kinds and
versions are shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from models.personal import PROPERTY_NAME, Mask
from models.rules.event_types import EventType
from models.rules.personal_text import identifies_person, is_word
from models.rules.standards import countries

Masker = Callable[[Mask, Any], Any]

_ALIASES: Mapping[str, frozenset[str]] = {
    "age": frozenset({"age", "agegroup", "agerange"}),
    "date_of_birth": frozenset({"dateofbirth", "birthday", "birthdate", "dob", "yearofbirth", "birthyear"}),
    "gender": frozenset({"gender", "sex"}),
    "country": frozenset({"country", "countrycode", "countryname"}),
    "city": frozenset(
        {"city", "cityname", "town", "municipality", "village", "address", "street"}
        | {"postalcode", "postcode", "postal", "zip", "zipcode", "addressline1", "addressline2"}
        | {"coordinates", "coords", "geopoint", "geohash", "point", "latlng", "latlon", "latlong"}
        | {"latitude", "longitude", "lat", "lon", "lng", "long"}
    ),
    "timezone": frozenset({"timezone", "tz", "utcoffset", "timezoneoffset"}),
    "language": frozenset({"language", "languages", "lang", "locale", "acceptlanguage"}),
    "device_type": frozenset({"devicetype", "type", "formfactor", "devicecategory", "deviceclass"}),
}
"""Names by demographic attribute, in the form of :func:`_normalise`. Coordinates reveal the city."""
_REVEALING_WORDS: Mapping[str, frozenset[str]] = {
    "country": frozenset({"country"}),
    "city": frozenset(
        {"city", "town", "municipality", "village", "street", "postal", "postcode", "zip", "zipcode"}
        | {"latitude", "longitude", "coordinates", "geohash"}
    ),
    "timezone": frozenset({"timezone", "tz"}),
    "language": frozenset({"language", "languages", "locale"}),
}
"""Words that reveal an attribute anywhere in a name of `location` or `device_info`: `geo_city`, `countryIsoCode`.
`type` and `address` are omitted, because other names contain them too."""
_SEPARATORS = str.maketrans("", "", "_-. ")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")

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
    "device_type": DEVICE_TYPES,
    "type": DEVICE_TYPES,
    "platform": _SYSTEMS | DEVICE_TYPES,
    "os": _SYSTEMS,
    "browser": _SYSTEMS,
}
"""Values of `location` and `device_info` that are shown, since many people share them; by name, in lower case."""
_COUNTRY_NAMES = frozenset({"country", "country_code"})
"""Names of `location` and `device_info` whose values are shown if they are codes of countries."""
_PARTS_WITH_ALIASES = ("location", "device_info")


@dataclass(frozen=True, slots=True)
class OptOuts:
    """The names under which events may hold an attribute that a person opted out of."""

    own: frozenset[str]
    """Names of the attributes, in the form of :func:`_normalise`."""
    names: frozenset[str]
    """``own`` and their aliases."""
    words: frozenset[str]
    """Words that reveal an attribute anywhere in a name."""

    @classmethod
    def from_preferences(cls, preferences: Mapping[str, bool] | None) -> OptOuts | None:
        """None if the person has opted out of nothing."""
        attributes = [name for name, allowed in (preferences or {}).items() if allowed is False]
        if not attributes:
            return None
        nothing = frozenset[str]()
        own = frozenset(map(_normalise, attributes))
        aliases = nothing.union(*(_ALIASES.get(name, nothing) for name in attributes))
        return cls(
            own, own | aliases, nothing.union(*(_REVEALING_WORDS.get(name, nothing) for name in attributes))
        )

    def cover(self, name: str, part: str) -> bool:
        if part not in _PARTS_WITH_ALIASES:
            return _normalise(name) in self.own
        return _normalise(name) in self.names or any(word.lower() in self.words for word in _WORD.findall(name))


def redact(body: Mapping[str, Any], opt_outs: OptOuts) -> dict[str, Any]:
    """An event's body without the attributes that the person opted out of."""
    return {part: _redact_part(value, opt_outs, part) for part, value in body.items()}


def redact_dimensions(dimensions: Mapping[str, Any], opt_outs: OptOuts) -> dict[str, Any] | None:
    """The dimensions that remain after :func:`redact`; None if none remain.

    A dimension has the name of the property that it copies. So this works even if the event type has changed.
    """
    return {
        name: value for name, value in dimensions.items() if not opt_outs.cover(name, "event_properties")
    } or None


def _redact_part(value: Any, opt_outs: OptOuts, part: str) -> Any:
    if isinstance(value, dict):
        return {
            name: each if _is_preferences(name, each) else _redact_part(each, opt_outs, part)
            for name, each in value.items()
            if not opt_outs.cover(name, part)
        }
    if isinstance(value, list):
        return [_redact_part(each, opt_outs, part) for each in value]
    return value


def _is_preferences(name: str, value: Any) -> bool:
    """Whether a value says which attributes may be stored, and holds none."""
    return (
        name == "privacy_preferences"
        and isinstance(value, dict)
        and all(each is None or isinstance(each, bool) for each in value.values())
    )


def _normalise(name: str) -> str:
    """`deviceType`, `device-type` and `device_type` all become `devicetype`."""
    return name.lower().translate(_SEPARATORS)


def standard_dimensions(body: Mapping[str, Any]) -> dict[str, str]:
    """The country and the device type of an event, if they are known values."""
    found = {}
    location, device = body.get("location"), body.get("device_info")
    if location:
        country = location.get("country")
        if isinstance(country, str) and country.upper() in countries():
            found["country"] = country.upper()
    if device:
        kind = device.get("device_type")
        if isinstance(kind, str) and kind.lower() in DEVICE_TYPES:
            found["device_type"] = kind.lower()
    return found


def mask_event(body: Mapping[str, Any], declared: EventType | None, mask: Masker) -> dict[str, Any]:
    """An event's body as roles other than admin see it."""
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
    if declared is None:
        hidden: dict[str, Any] = _all_masked(properties, mask)
        return hidden
    described: Any = _described(properties, declared.schema, declared, mask)
    for pointer in declared.pii:
        described = _masked_at(described, _parts(pointer), mask)
    shown: dict[str, Any] = described
    return shown


def _parts(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _masked_at(value: Any, parts: list[str], mask: Masker) -> Any:
    """Mask the value at a pointer, if there is one."""
    if not parts:
        return _all_masked(value, mask)
    first, rest = parts[0], parts[1:]
    if isinstance(value, dict) and first in value:
        return {**value, first: _masked_at(value[first], rest, mask)}
    if isinstance(value, list) and first.isdecimal() and int(first) < len(value):
        index = int(first)
        return [*value[:index], _masked_at(value[index], rest, mask), *value[index + 1 :]]
    return value


def _described(value: Any, schema: Any, declared: EventType, mask: Masker) -> Any:
    """Show the values that the schema describes, and mask all others."""
    if isinstance(value, dict):
        parts = _member(schema, "properties")
        return {
            _name(name, mask): _described(each, parts[name], declared, mask)
            if name in parts
            else _all_masked(each, mask)
            for name, each in value.items()
        }
    if isinstance(value, list):
        items = _member(schema, "items")
        return [_described(each, items, declared, mask) if items else _all_masked(each, mask) for each in value]
    if isinstance(value, str) and not _may_show(value, declared):
        return mask(Mask.ALL, value)
    return value


def _member(schema: Any, name: str) -> Mapping[str, Any]:
    member = schema.get(name) if isinstance(schema, Mapping) else None
    return member if isinstance(member, Mapping) else {}


def _may_show(text: str, declared: EventType) -> bool:
    # an admin has described the texts of a custom type; those of a standard type are the callers' choice
    return is_word(text) if declared.standard else not identifies_person(text)


def _name(name: str, mask: Masker) -> str:
    # a caller may use data as a key, for example an e-mail address
    return name if PROPERTY_NAME.fullmatch(name) else str(mask(Mask.ALL, name))


def _only_known(group: Mapping[str, Any], mask: Masker) -> dict[str, Any]:
    return {_name(name, mask): _of_group(name, value, mask) for name, value in group.items()}


def _of_group(name: str, value: Any, mask: Masker) -> Any:
    if not isinstance(value, str):
        return _all_masked(value, mask)
    if name == "city":
        return mask(Mask.WORDS, value)
    return value if _is_known(name, value) else mask(Mask.ALL, value)


def _is_known(name: str, value: str) -> bool:
    if name in _COUNTRY_NAMES:
        return value.upper() in countries()
    if name in _VERSIONS:
        return _VERSION.fullmatch(value) is not None
    return value.lower() in _KNOWN_VALUES.get(name, ())


def _all_masked(value: Any, mask: Masker) -> Any:
    """Mask every value; names and shape stay."""
    if isinstance(value, dict):
        return {_name(name, mask): _all_masked(each, mask) for name, each in value.items()}
    return [_all_masked(each, mask) for each in value] if isinstance(value, list) else mask(Mask.ALL, value)
