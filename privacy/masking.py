"""How personal attributes look to those who may not see whom they are about.

Masks keep what is needed to tell two rows apart at a glance and nothing that names a person:
``ada@example.com`` -> ``a**@e******.com``, ``Ada Lovelace`` -> ``A** L*******``, a date -> ``****-**-**``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from sqlmodel import SQLModel

from models.personal import PROPERTY_NAME, Mask, personal_columns
from models.rules.durations import is_duration
from models.rules.event_types import NAME
from models.vocabulary import (
    AccountStatus,
    Channel,
    InstanceStatus,
    LifecycleStage,
    MessageStatus,
    Purpose,
    Role,
    Suppression,
)

HIDDEN = "***"

_VOCABULARIES = (AccountStatus, Channel, InstanceStatus, LifecycleStage, MessageStatus, Purpose, Suppression)
_OUTCOMES = ("accepted", "duplicate", "rejected")
_WORDS = frozenset(word.value for words in _VOCABULARIES for word in words) | frozenset(_OUTCOMES)
"""The platform's own words."""
_ID = re.compile(r"[0-9a-f]{32}")
_SOMEBODYS = 10_000_000
"""From here on a number may be that of a telephone, a card or an account."""
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]{8,15}(Z|[+-]\d\d:\d\d)", re.ASCII)


def sees_people(role: Role) -> bool:
    """Whether a role sees whom data is about; all others see masks."""
    return role is Role.ADMIN


def mask(kind: Mask, value: Any) -> Any:
    """The masked form of a value; None stays None, since absence tells nothing."""
    if value is None:
        return None
    if kind is Mask.EMAIL:
        return _email(str(value))
    if kind is Mask.WORDS:
        return " ".join(_word(word) for word in str(value).split())
    if kind is Mask.DATE:
        return "****-**-**"
    if kind is Mask.TEXTS:
        return without_texts(value)
    return HIDDEN


def value_for(
    role: Role, table: type[SQLModel], column: str, value: Any, *, known: Collection[str] = frozenset()
) -> Any:
    """What was opened of a personal column, as a role sees it.

    ``known`` are texts that a document in that column may show besides the platform's own, since its schema names
    them: :func:`closed_words`.
    """
    kind = personal_columns(table)[column].mask
    if sees_people(role) or kind is None:
        return value
    return without_texts(value, known) if kind is Mask.TEXTS else mask(kind, value)


def without_texts(value: Any, known: Collection[str] = frozenset()) -> Any:
    """A JSON document whose texts are hidden, except ids and words of the platform's own, durations, and those
    of ``known``. Shape, truth values and numbers of up to seven digits stay: they name nobody."""
    if isinstance(value, dict):
        return {_name(name): _named(name, each, known) for name, each in value.items()}
    if isinstance(value, list):
        return [without_texts(each, known) for each in value]
    if isinstance(value, int | float) and abs(value) >= _SOMEBODYS:
        return HIDDEN
    if not isinstance(value, str) or value in _WORDS or value in known:
        return value
    return value if _ID.fullmatch(value) or is_duration(value) else HIDDEN


def _named(name: str, value: Any, known: Collection[str]) -> Any:
    """A member of a document. The event that a wait has found is shown with the id that it has everywhere, and a
    time under a name for times."""
    if isinstance(value, str):
        is_moment = (name == "until" or name.endswith("_at")) and _MOMENT.fullmatch(value)
        if name == "event_id" or is_moment or (name == "event_type" and NAME.fullmatch(value)):
            return value
    return without_texts(value, known)


def _name(name: str) -> str:
    """The name of a property, hidden where it is no name but data."""
    return name if PROPERTY_NAME.fullmatch(name) else HIDDEN


def _word(word: str) -> str:
    return word[:1] + "*" * (len(word) - 1) if len(word) > 1 else "*"


def _email(address: str) -> str:
    local, _, domain = address.rpartition("@")
    labels, dot, top = domain.rpartition(".")
    return f"{_word(local)}@{_word(labels)}{dot}{top}" if dot else f"{_word(local)}@{_word(domain)}"


def closed_words(schema: Any) -> frozenset[str]:
    """The texts that a JSON schema names itself, as choices: whoever has the schema has them."""
    return frozenset(_words_in(schema))


def _words_in(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        choices = [*schema.get("enum", ()), schema.get("const")]
        yield from (choice for choice in choices if isinstance(choice, str))
        for each in schema.values():
            yield from _words_in(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _words_in(each)
