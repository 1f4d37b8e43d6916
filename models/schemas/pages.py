"""The envelope of lists."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import Field

from models.schemas.fields import ResponseSchema

Item = TypeVar("Item")


class Pagination(ResponseSchema):
    """Where a page stands in its list."""

    limit: int = Field(description="How many items a page holds at most.")
    next_cursor: str | None = Field(description="Send this as `cursor` for the next page; null on the last.")


class Page(ResponseSchema, Generic[Item]):
    """One page of a list."""

    data: list[Item]
    pagination: Pagination
