"""Which columns hold personal data: declared once, on the table, and read by everything that must obey.

A column declared with :func:`personal` is encrypted with the person's data key (AES-256-GCM, bound to person, table
and column) and is `bytea` in Postgres. It is masked as the declaration says for everyone who may not see whom data
is about, and it belongs to what an export of the person holds. :mod:`models.data_map` writes all of it down, and
refuses a text in the clear of which nobody has said what it holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Column
from sqlmodel import Field, SQLModel

PROPERTY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
"""What the name of a property looks like; anything else in its place is data, and is masked as such."""


class Mask(StrEnum):
    """How an attribute looks to those who may not see whom it is about (see :mod:`privacy.masking`)."""

    EMAIL = "email"
    WORDS = "words"
    DATE = "date"
    ALL = "all"
    TEXTS = "texts"
    """A JSON document: its shape, numbers of up to seven digits and the platform's own words stay."""
    EVENT = "event"
    """An event's body: as its type declares (:mod:`models.rules.event_privacy`)."""
    ANSWERED = "answered"
    """An answer, kept as it was masked for the key that got it; no other key is ever given it."""


@dataclass(frozen=True)
class Personal:
    """The declaration: encrypted at rest, and masked; ``mask`` is None for what names an object, not a person."""

    mask: Mask | None = Mask.ALL


def personal(mask: Mask | None = Mask.ALL, *, nullable: bool = True) -> Any:
    """A table column that holds personal data, encrypted; use as the field's default. It is masked unless ``mask``
    says None in so many words."""
    return Field(
        default=None,
        nullable=nullable,
        sa_column_kwargs={"info": {"personal": Personal(mask)}, "comment": "personal: encrypted"},
    )


def columns_of(table: type[SQLModel]) -> list[Column[Any]]:
    """The columns of a table, in the order of their declaration."""
    return list(table.__table__.columns)  # type: ignore[attr-defined]  # SQLModel doesn't declare what it makes


def personal_columns(table: type[SQLModel]) -> dict[str, Personal]:
    """The personal columns of a table by name, in the order of their declaration."""
    return {each.name: each.info["personal"] for each in columns_of(table) if "personal" in each.info}
