"""Which columns hold personal data: declared once, on the table, and read by everything that must obey.

A column whose annotation carries :class:`Personal` is sealed with the person's data key (AES-256-GCM, bound
to person, table and column) and is `bytea` in Postgres. Where the declaration names a mask, the attribute tells
who somebody is (PII) and is masked for everyone but admins; one without a mask, such as an age or a language, is
sealed at rest as well, but tells nobody apart and is what operators and analysts work with.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlmodel import Field, SQLModel


class Mask(StrEnum):
    """How an attribute looks to those who may not see whom it is about (see :mod:`privacy.masking`)."""

    EMAIL = "email"
    WORDS = "words"
    DATE = "date"
    ALL = "all"


@dataclass(frozen=True)
class Personal:
    """The declaration: sealed at rest, and masked if ``mask`` is given."""

    mask: Mask | None = None


def personal(mask: Mask | None = None, *, nullable: bool = True) -> Any:
    """A table column that holds personal data, sealed; use as the field's default."""
    return Field(
        default=None,
        nullable=nullable,
        sa_column_kwargs={"info": {"personal": Personal(mask)}, "comment": "personal: sealed"},
    )


def personal_columns(table: type[SQLModel]) -> dict[str, Personal]:
    """The personal columns of a table by name, in the order of their declaration."""
    columns = table.__table__.columns  # type: ignore[attr-defined]
    return {column.name: column.info["personal"] for column in columns if "personal" in column.info}
