"""Masks the values that a role may not see, as the columns declare.

This module masks every encrypted column that a route shows, for the caller's role: profiles
(:func:`masked_profile`), events (:func:`event_body_for`) and the rows of an export (:func:`row_for`). Callbacks
also contain instances, dead letters and messages, so :func:`privacy.masking.value_for` masks those.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlmodel import SQLModel

from models.personal import Mask, personal_columns
from models.rules import event_privacy
from models.rules.event_types import EventType
from models.tables.people import User
from models.vocabulary import Role
from privacy.instance_views import error_view
from privacy.masking import mask, sees_personal_data, value_for

USER_MASKS = {name: declared.mask for name, declared in personal_columns(User).items()}
"""The masked attributes of a profile, each with its kind of mask."""

_ERROR = "error"
"""The column of a failure. Its kind and its step are not personal and stay readable."""


def masked_profile(document: Mapping[str, Any]) -> dict[str, Any]:
    """A profile as operators and analysts see it."""
    return {
        name: masked_profile(value) if name == "demographics" else _masked(name, value)
        for name, value in document.items()
    }


def _masked(name: str, value: Any) -> Any:
    return mask(USER_MASKS[name], value) if name in USER_MASKS else value


def event_body_for(role: Role, body: Mapping[str, Any], declared: EventType | None) -> Mapping[str, Any]:
    """An event's body as a role sees it. ``declared`` is the event's type, if it is declared."""
    return body if sees_personal_data(role) else event_privacy.mask_event(body, declared, mask)


def row_for(
    role: Role,
    table: type[SQLModel],
    row: Mapping[str, Any],
    *,
    known: Collection[str] = frozenset(),
    declared: EventType | None = None,
) -> dict[str, Any]:
    """A decrypted row of any table as a role sees it: each column masked as it is declared.

    ``known`` are the choices in the parameter schema of the row's workflow. ``declared`` is the type of the row's
    event.
    """
    kinds = {name: personal.mask for name, personal in personal_columns(table).items()}

    def seen(name: str, value: Any) -> Any:
        if name not in kinds or value is None:
            return value
        if kinds[name] is Mask.EVENT:
            return event_body_for(role, value, declared)
        if name == _ERROR:
            view = error_view(role, table, value)
            return None if view is None else view.model_dump()
        return value_for(role, table, name, value, known=known)

    return {name: seen(name, value) for name, value in row.items()}
