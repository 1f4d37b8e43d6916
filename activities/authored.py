"""Finds the activities in :mod:`activities.lifecycle`, as the catalogue finds the workflows."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from privacy.encryption import Cipher
from runtime.database import Database
from runtime.settings import Settings

_IS_ACTIVITY = "__temporal_activity_definition"
"""The attribute that ``activity.defn`` sets."""


@dataclass(frozen=True, repr=False)
class Dependencies:
    """The argument of the constructor of each class."""

    database: Database
    cipher: Cipher
    settings: Settings


def authored_activities(dependencies: Dependencies) -> list[Callable[..., Any]]:
    """The activities of one object of each class that has some."""
    found: list[Callable[..., Any]] = []
    for authored in _classes():
        names = [name for name, each in vars(authored).items() if hasattr(each, _IS_ACTIVITY)]
        if names:
            instance = authored(dependencies)
            found.extend(getattr(instance, name) for name in names)
    return found


def _classes() -> Iterator[type[Any]]:
    package = importlib.import_module("activities.lifecycle")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        for member in vars(importlib.import_module(module.name)).values():
            if isinstance(member, type) and member.__module__ == module.name:
                yield member
