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
from dataclasses import dataclass
from typing import Any

from models.personal import PROPERTY_NAME, Mask
from models.rules.event_types import EventType
from models.schemas.countries import COUNTRIES

Masker = Callable[[Mask, Any], Any]

_TRAVELS_AS: Mapping[str, frozenset[str]] = {
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
"""Names by demographic attribute, as :func:`_plain` has them. Who may not know the city may not know the
coordinates."""
_TELLS: Mapping[str, frozenset[str]] = {
    "country": frozenset({"country"}),
    "city": frozenset(
        {"city", "town", "municipality", "village", "street", "postal", "postcode", "zip", "zipcode"}
        | {"latitude", "longitude", "coordinates", "geohash"}
    ),
    "timezone": frozenset({"timezone", "tz"}),
    "language": frozenset({"language", "languages", "locale"}),
}
"""Words by demographic attribute that tell of it wherever they stand in a name of `location` or `device_info`: in
`geo_city` and `countryIsoCode` as well. `type` is not among them, nor `address`."""
_DEMOGRAPHIC_NAMES = frozenset[str]().union(*_TRAVELS_AS.values())
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


@dataclass(frozen=True, slots=True)
class Forbidden:
    """What a person's preferences forbid to be stored of an event."""

    own: frozenset[str]
    """The attributes' own names, as :func:`_plain` has them."""
    names: frozenset[str]
    """The names under which they travel; and ``words`` that tell of them within a name."""
    words: frozenset[str]

    @classmethod
    def by(cls, preferences: Mapping[str, bool] | None) -> Forbidden | None:
        """What some preferences forbid; None where that is nothing."""
        refused = [name for name, allowed in (preferences or {}).items() if allowed is False]
        if not refused:
            return None
        nothing = frozenset[str]()
        own = frozenset(map(_plain, refused))
        names = nothing.union(*(_TRAVELS_AS.get(name, nothing) for name in refused))
        return cls(own, own | names, nothing.union(*(_TELLS.get(name, nothing) for name in refused)))

    def has(self, name: str, part: str) -> bool:
        """Whether what stands under a name in a part of an event is forbidden."""
        if part not in _WHERE_PEOPLE_ARE:
            return _plain(name) in self.own
        return _plain(name) in self.names or any(word.lower() in self.words for word in _WORD.findall(name))


def without(body: Mapping[str, Any], forbidden: Forbidden) -> dict[str, Any]:
    """An event's body without what its person's preferences forbid."""
    return {part: _without(value, forbidden, part) for part, value in body.items()}


def dimensions_without(dimensions: Mapping[str, Any], forbidden: Forbidden) -> dict[str, Any] | None:
    """What is left in the clear of an event that has lost what is forbidden.

    A dimension has the name of the property, or of the part of `location` or `device_info`, that it is a copy of,
    so this is what is a copy of what :func:`without` leaves: whatever the event's type has declared meanwhile.
    """
    return {
        name: value for name, value in dimensions.items() if not forbidden.has(name, "event_properties")
    } or None


def _without(value: Any, forbidden: Forbidden, part: str) -> Any:
    if isinstance(value, dict):
        return {
            name: _without(each, forbidden, part) for name, each in value.items() if not forbidden.has(name, part)
        }
    if isinstance(value, list):
        return [_without(each, forbidden, part) for each in value]
    return value


def _plain(name: str) -> str:
    """A name in lower case, its words joined: `deviceType`, `device-type` and `device_type` are one."""
    return name.lower().translate(_SEPARATORS)


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
