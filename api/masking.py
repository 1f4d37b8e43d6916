"""Who sees what of a person: the one place where the API masks, driven by the columns' own declarations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.personal import personal_columns
from models.tables.people import User
from privacy.masking import mask

USER_MASKS = {name: declared.mask for name, declared in personal_columns(User).items() if declared.mask}
"""The attributes of a profile that are masked, each with how."""


def masked_profile(document: Mapping[str, Any]) -> dict[str, Any]:
    """A profile as those see it who may not see whom it is about."""
    return {
        name: masked_profile(value) if name == "demographics" else _masked(name, value)
        for name, value in document.items()
    }


def _masked(name: str, value: Any) -> Any:
    return mask(USER_MASKS[name], value) if name in USER_MASKS else value
