"""The export of a person. The data map determines its tables and columns."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, Field, create_model
from sqlalchemy import Column
from sqlalchemy.dialects.postgresql import JSONB

from models.data_map import OWNER_COLUMNS, exported_columns
from models.personal import columns_of
from models.schemas.fields import ResponseSchema
from models.schemas.users import Demographics, Transactions, UserProfile
from models.tables.registry import TABLES

PROFILE = "users"
"""The table whose row the export shows as a profile."""
EVENT_PARTS: Mapping[str, Any] = {
    "event_properties": dict[str, Any] | None,
    "device_info": dict[str, Any] | None,
    "location": dict[str, Any] | None,
    "referrer": str | None,
}
"""The fields that replace an event's body."""
_FIELDS: Mapping[str, str] = {
    "dead_letters.dead_letter_id": "id",
    "user_activity.total_session_seconds": "total_session_duration",
    "purchase_totals.last_purchase_at": "last_purchase_date",
    "purchase_totals.first_purchase_at": "first_purchase_date",
}
"""Names in the API that differ from the column's name."""
_IN_PROFILE = frozenset({*UserProfile.model_fields, *Demographics.model_fields, *Transactions.model_fields})


def export_name(table: str, column: str) -> str:
    return _FIELDS.get(f"{table}.{column}", column)


def columns_outside_profile(columns: list[str]) -> list[str]:
    """The columns of a profile's row that `GET /users/{user_id}` doesn't show. An export adds them."""
    return [name for name in columns if name not in _IN_PROFILE]


def _rows(name: str, columns: list[str], base: type[BaseModel] = ResponseSchema) -> type[BaseModel]:
    """A model of a table's rows with these columns, and those of ``base``."""
    [table] = [each for each in TABLES if each.__tablename__ == name]
    declared = {each.name: each for each in columns_of(table)}
    fields: dict[str, Any] = {}
    for column in columns:
        if f"{name}.{column}" == "events.body":
            fields |= {part: (kind, None) for part, kind in EVENT_PARTS.items()}
        else:
            fields[export_name(name, column)] = _field(declared[column])
    if OWNER_COLUMNS.get(name) == "instance_id":
        fields["workflow_id"] = (str, ...)
    text = f"A row of `{name}`."
    return create_model(f"Exported{table.__name__}", __base__=base, __doc__=text, **fields)


def _field(column: Column[Any]) -> Any:
    if "personal" in column.info:
        return Any, Field(description="Personal: every role except admin sees it masked.")
    kind: Any = dict[str, Any] if isinstance(column.type, JSONB) else column.type.python_type
    kind = str if kind is Decimal else kind
    return (kind | None if column.nullable else kind), ...


def _export() -> type[BaseModel]:
    columns = exported_columns()
    profile = _rows(PROFILE, columns_outside_profile(columns.pop(PROFILE)), UserProfile)
    rows: dict[str, Any] = {name: (list[_rows(name, held)], ...) for name, held in columns.items()}  # type: ignore[misc]  # made here
    return create_model(
        "UserExport",
        __base__=ResponseSchema,
        __doc__="All data of a person: the profile, and the rows of each table.",
        user_id=(str, ...),
        exported_at=(datetime, Field(description="When the request was received.")),
        profile=(profile, Field(description="As in `GET /users/{user_id}`, with the other columns of its row.")),
        **rows,
    )


UserExport = _export()
