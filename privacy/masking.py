"""How personal attributes look to those who may not see whom they are about.

Masks keep what is needed to tell two rows apart at a glance and nothing that names a person:
``ada@example.com`` -> ``a**@e******.com``, ``Ada Lovelace`` -> ``A** L*******``, a date -> ``****-**-**``.
"""

from __future__ import annotations

from typing import Any

from models.personal import Mask
from models.vocabulary import Role

HIDDEN = "***"


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
    return HIDDEN


def _word(word: str) -> str:
    return word[:1] + "*" * (len(word) - 1) if len(word) > 1 else "*"


def _email(address: str) -> str:
    local, _, domain = address.rpartition("@")
    labels, dot, top = domain.rpartition(".")
    return f"{_word(local)}@{_word(labels)}{dot}{top}" if dot else f"{_word(local)}@{_word(domain)}"
