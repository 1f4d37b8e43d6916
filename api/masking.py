"""Who sees what of a person: the one place where the API masks, driven by the columns' own declarations.

Whatever a route shows of a sealed column passes here with the caller's role: profiles (:func:`profile_for`) and
events (:func:`event_body_for`); or, where callbacks show it too, :func:`privacy.masking.value_for`, which every
other column passes: instances, dead letters and messages. Analytics shows dimensions, which are no person's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.personal import personal_columns
from models.rules import event_privacy
from models.rules.event_types import EventType
from models.tables.people import User
from models.vocabulary import Role
from privacy.masking import mask, sees_people

USER_MASKS = {name: declared.mask for name, declared in personal_columns(User).items() if declared.mask}
"""The attributes of a profile that are masked, each with how."""


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
