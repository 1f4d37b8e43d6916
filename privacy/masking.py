"""Masks personal values for roles other than admin.

A mask helps to distinguish two rows without revealing the identity: ``ada@example.com`` becomes
``a**@e******.com``, ``Ada Lovelace`` becomes ``A** L*******``. A date becomes ``****-**-**``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from sqlmodel import SQLModel

from models.personal import PROPERTY_NAME, Mask, personal_columns
from models.rules.durations import is_duration
from models.rules.event_types import NAME
from models.rules.personal_text import is_word, looks_personal
from models.vocabulary import (
    AccountStatus,
    Channel,
    InstanceStatus,
    LifecycleStage,
    MessageStatus,
    NotStarted,
    Purpose,
    Role,
    Suppression,
)

HIDDEN = "***"

_ENUMERATIONS = (
    AccountStatus,
    Channel,
    InstanceStatus,
    LifecycleStage,
    MessageStatus,
    NotStarted,
    Purpose,
    Suppression,
)
_INGEST_STATUSES = ("accepted", "duplicate", "rejected")
_WORDS = frozenset(word.value for words in _ENUMERATIONS for word in words) | frozenset(_INGEST_STATUSES)
"""The platform's own words, which aren't personal."""
_ID = re.compile(r"[0-9a-f]{32}")
_MIN_PERSONAL_NUMBER = 10_000_000  # from here on it may be a telephone, card or account number
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]{8,15}(Z|[+-]\d\d:\d\d)", re.ASCII)


def sees_personal_data(role: Role) -> bool:
    return role is Role.ADMIN


def reads_people(role: Role) -> bool:
    """Whether a role may read people, masked or not. An integrator only writes them."""
    return role is not Role.INTEGRATOR


def mask(kind: Mask, value: Any) -> Any:
    """None stays None."""
    if value is None:
        return None
    if kind is Mask.EMAIL:
        return _email(str(value))
    if kind is Mask.WORDS:
        return " ".join(_word(word) for word in str(value).split())
    if kind is Mask.WORD:
        return value if is_word(str(value)) else HIDDEN
    if kind is Mask.DATE:
        return "****-**-**"
    if kind is Mask.TEXTS:
        return mask_texts(value)
    return HIDDEN


def value_for(
    role: Role, table: type[SQLModel], column: str, value: Any, *, known: Collection[str] = frozenset()
) -> Any:
    """A decrypted value of a personal column, masked for a role.

    ``known`` are further texts of a JSON document that stay: see :func:`schema_choices`.
    """
    kind = personal_columns(table)[column].mask
    if sees_personal_data(role):
        return value
    return mask_texts(value, known) if kind is Mask.TEXTS else mask(kind, value)


def mask_texts(value: Any, known: Collection[str] = frozenset()) -> Any:
    """Hide the texts of a JSON document, except the platform's ids and words, durations, and ``known``.

    The shape, booleans and numbers of up to seven digits stay.
    """
    if isinstance(value, dict):
        return {_name(name): _member(name, each, known) for name, each in value.items()}
    if isinstance(value, list):
        return [mask_texts(each, known) for each in value]
    if isinstance(value, int | float) and abs(value) >= _MIN_PERSONAL_NUMBER:
        return HIDDEN
    if not isinstance(value, str) or value in _WORDS or value in known:
        return value
    return value if _ID.fullmatch(value) or is_duration(value) else HIDDEN


def _member(name: str, value: Any, known: Collection[str]) -> Any:
    if isinstance(value, str):
        is_time = (name == "until" or name.endswith("_at")) and _TIME.fullmatch(value)
        # A wait's result contains its event's id and type, which every role sees elsewhere.
        is_event_id = name == "event_id" and not looks_personal(value)
        if is_event_id or is_time or (name == "event_type" and NAME.fullmatch(value)):
            return value
    return mask_texts(value, known)


def _name(name: str) -> str:
    # A client may use personal data as a key, for example an e-mail address.
    return name if PROPERTY_NAME.fullmatch(name) else HIDDEN


def _word(word: str) -> str:
    return word[:1] + "*" * (len(word) - 1) if len(word) > 1 else "*"


def _email(address: str) -> str:
    local, _, domain = address.rpartition("@")
    labels, dot, top = domain.rpartition(".")
    return f"{_word(local)}@{_word(labels)}{dot}{top}" if dot else f"{_word(local)}@{_word(domain)}"


def schema_choices(schema: Any) -> frozenset[str]:
    """The texts of `enum` and `const` in a JSON Schema, which is public."""
    return frozenset(_choices_in(schema))


def _choices_in(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        choices = [*schema.get("enum", ()), schema.get("const")]
        yield from (choice for choice in choices if isinstance(choice, str))
        for each in schema.values():
            yield from _choices_in(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _choices_in(each)
