"""An export of a person on the wire. Its tables and their fields are those that the data map exports."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, Field, create_model
from sqlalchemy import Column
from sqlalchemy.dialects.postgresql import JSONB

from models.data_map import WHOSE, exported
from models.personal import columns_of
from models.schemas.fields import ResponseSchema
from models.schemas.users import Demographics, Transactions, UserProfile
from models.tables.registry import TABLES

PROFILE = "users"
"""The table whose row is shown as the profile."""
EVENT_PARTS: Mapping[str, Any] = {
    "event_properties": dict[str, Any] | None,
    "device_info": dict[str, Any] | None,
    "location": dict[str, Any] | None,
    "referrer": str | None,
}
"""What stands in the place of an event's body."""
_FIELDS: Mapping[str, str] = {
    "dead_letters.dead_letter_id": "id",
    "user_activity.total_session_seconds": "total_session_duration",
    "purchase_totals.last_purchase_at": "last_purchase_date",
}
"""Where the API calls what a column holds by another name."""
_IN_PROFILE = frozenset({*UserProfile.model_fields, *Demographics.model_fields, *Transactions.model_fields})


def field_of(table: str, column: str) -> str:
    """What a column is called in an export."""
    return _FIELDS.get(f"{table}.{column}", column)


def beside_the_profile(columns: list[str]) -> list[str]:
    """Which of the columns of a profile's row the profile, as `GET /users/{user_id}` gives it, doesn't show; an
    export adds them to it."""
    return [name for name in columns if name not in _IN_PROFILE]


def _rows(name: str, columns: list[str], base: type[BaseModel] = ResponseSchema) -> type[BaseModel]:
    """What the rows of a table look like, or of what else is told of one beside a ``base``."""
    [table] = [each for each in TABLES if each.__tablename__ == name]
    declared = {each.name: each for each in columns_of(table)}
    fields: dict[str, Any] = {}
    for column in columns:
        if f"{name}.{column}" == "events.body":
            fields |= {part: (kind, None) for part, kind in EVENT_PARTS.items()}
        else:
            fields[field_of(name, column)] = _field(declared[column])
    if WHOSE.get(name) == "instance_id":
        fields["workflow_id"] = (str, ...)
    text = f"What is held of a person in `{name}`: a row."
    return create_model(f"Exported{table.__name__}", __base__=base, __doc__=text, **fields)


def _field(column: Column[Any]) -> Any:
    if "personal" in column.info:
        return Any, Field(description="Personal: masked for all but admins.")
    kind: Any = dict[str, Any] if isinstance(column.type, JSONB) else column.type.python_type
    kind = str if kind is Decimal else kind
    return (kind | None if column.nullable else kind), ...


def _export() -> type[BaseModel]:
    columns = exported()
    profile = _rows(PROFILE, beside_the_profile(columns.pop(PROFILE)), UserProfile)
    rows: dict[str, Any] = {name: (list[_rows(name, held)], ...) for name, held in columns.items()}  # type: ignore[misc]  # made here
    return create_model(
        "UserExport",
        __base__=ResponseSchema,
        __doc__="Everything that is held on a person: the profile, and the rows of each table.",
        user_id=(str, ...),
        exported_at=(datetime, Field(description="When it was asked for.")),
        profile=(profile, Field(description="As `GET /users/{user_id}` gives it, and what else its row holds.")),
        **rows,
    )


UserExport = _export()
