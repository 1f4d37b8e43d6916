"""Who sees what of a person: the one place where the API masks, driven by the columns' own declarations.

Whatever a route shows of a sealed column passes here with the caller's role: profiles (:func:`profile_for`),
events (:func:`event_body_for`), and every other column (:func:`value_for`), so also what exports, dead letters and
messages are to show. Analytics shows dimensions, which are no person's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sqlmodel import SQLModel

from models.personal import Mask, personal_columns
from models.rules import event_privacy
from models.rules.event_types import EventType
from models.tables.people import User
from models.vocabulary import Role
from privacy.masking import mask, without_texts

USER_MASKS = {name: declared.mask for name, declared in personal_columns(User).items() if declared.mask}
"""The attributes of a profile that are masked, each with how."""


def sees_people(role: Role) -> bool:
    """Whether a role sees whom data is about; all others see masks."""
    return role is Role.ADMIN


def profile_for(role: Role, document: Mapping[str, Any]) -> dict[str, Any]:
    """A profile as a role sees it."""
    return dict(document) if sees_people(role) else masked_profile(document)


def masked_profile(document: Mapping[str, Any]) -> dict[str, Any]:
    """A profile as those see it who may not see whom it is about."""
    return {
        name: masked_profile(value) if name == "demographics" else _masked(name, value)
        for name, value in document.items()
    }


def _masked(name: str, value: Any) -> Any:
    return mask(USER_MASKS[name], value) if name in USER_MASKS else value


def event_body_for(role: Role, body: Mapping[str, Any], declared: EventType | None) -> Mapping[str, Any]:
    """An event's body as a role sees it; ``declared`` is the event's type, where it has one."""
    return body if sees_people(role) else event_privacy.masked(body, declared, mask)


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
