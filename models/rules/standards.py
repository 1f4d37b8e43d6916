"""Codes of standards, from kept libraries (ADR 0051): countries, languages, time zones, currencies.

A library is imported at its first use, which takes 10 to 40 ms. Each set of codes is built once.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib import resources

_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")
LANGUAGE_LENGTH = 35
_NO_COUNTRY = "X"
_NO_CURRENCIES = frozenset({"XTS", "XXX"})
_NO_PLACE = "Factory"


@cache
def countries() -> frozenset[str]:
    """The 249 officially assigned codes of ISO 3166-1 alpha-2, in capitals.

    ISO assigns no code that begins with X; the library also has XK, which users have assigned to Kosovo.
    """
    from iso3166 import countries_by_alpha2

    return frozenset(code for code in countries_by_alpha2 if not code.startswith(_NO_COUNTRY))


@cache
def currencies() -> frozenset[str]:
    """Codes of ISO 4217 in capitals, with those that are withdrawn: old orders and their refunds keep them.

    Without the codes for tests and for no currency.
    """
    from babel.numbers import list_currencies

    return frozenset(list_currencies()) - _NO_CURRENCIES


def is_currency(code: str) -> bool:
    return code in currencies()


@cache
def time_zones() -> frozenset[str]:
    """The names of zones and links in tzdata, whatever files the machine has."""
    names = (resources.files("tzdata") / "zones").read_text(encoding="utf-8").split()
    return frozenset(names) - {_NO_PLACE}


@lru_cache(maxsize=4096)  # an import names few languages
def is_language(tag: str) -> bool:
    """Whether a text is a tag of BCP 47 whose subtags IANA has registered, in any case, with hyphens."""
    if len(tag) > LANGUAGE_LENGTH or _LANGUAGE.fullmatch(tag) is None:
        return False
    from langcodes import tag_is_valid

    return tag_is_valid(tag)
