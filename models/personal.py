"""Declares which columns hold personal data. Encryption, masks, exports and the data map read the declaration.

A column declared with :func:`personal` is `bytea` in Postgres, encrypted with the person's data key: AES-256-GCM,
bound to person, table, column and row (:data:`ROW_COLUMNS`). Roles other than admin see it masked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Column
from sqlmodel import Field, SQLModel

PROPERTY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
"""The form of a property's name. Any other JSON name may hold data, such as an e-mail address, so it is masked."""


class Mask(StrEnum):
    """How a value is shown to roles other than admin (:mod:`privacy.masking`)."""

    EMAIL = "email"
    WORDS = "words"
    DATE = "date"
    WORD = "word"
    """Shows a word, such as an order's id, and hides every other text (:mod:`models.rules.personal_text`)."""
    ALL = "all"
    TEXTS = "texts"
    """A JSON document. Shows its shape, numbers of up to seven digits, and the platform's own words."""
    EVENT = "event"
    """An event's body, as its type declares (:mod:`models.rules.event_privacy`)."""
    ANSWERED = "answered"
    """A stored response, masked for the role of its API key. Only that key receives it again."""


@dataclass(frozen=True)
class Personal:
    mask: Mask = Mask.ALL


def personal(mask: Mask = Mask.ALL, *, nullable: bool = True) -> Any:
    """The default of a table's field that holds personal data. A forgotten ``mask`` hides the whole value."""
    return Field(
        default=None,
        nullable=nullable,
        sa_column_kwargs={"info": {"personal": Personal(mask)}, "comment": "personal: encrypted"},
    )


ROW_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "users": (),
    "events": ("event_id",),
    "transactions": ("event_id",),
    "instances": ("instance_id",),
    "steps": ("instance_id", "step"),
    "attempts": ("instance_id", "step", "attempt"),
    "dead_letters": ("instance_id", "failed_step"),
    "callbacks": ("instance_id",),
    "event_waits": ("instance_id", "step"),
    "messages": ("message_id",),
    "idempotent_answers": ("key_id", "idempotency_key"),
}
"""By table: the columns that identify a row of a person. An encrypted value is bound to them; none is updated."""


def columns_of(table: type[SQLModel]) -> list[Column[Any]]:
    return list(table.__table__.columns)  # type: ignore[attr-defined]  # SQLModel doesn't declare what it makes


def personal_columns(table: type[SQLModel]) -> dict[str, Personal]:
    return {each.name: each.info["personal"] for each in columns_of(table) if "personal" in each.info}
