"""Builds one row of a person in every exported table, from the declarations of the columns."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any

from sqlalchemy import Column, Identity
from sqlmodel import SQLModel

from models.data_map import exported_columns
from models.personal import ROW_COLUMNS, Mask, columns_of, personal_columns
from models.tables.registry import TABLES
from privacy.encryption import Cipher, DataKey
from runtime.database import Database
from store.connection import Connection
from store.users import data_keys

NOW = datetime(2026, 3, 14, 12, tzinfo=UTC)
_CLEAR: dict[type, Any] = {
    datetime: NOW,
    int: 7,
    float: 12.5,
    Decimal: Decimal("1234.5"),
    bool: True,
    object: {"plan": "pro"},
    list: ["one", "two"],
}
_FIXED = {"workflow_id": "onboarding", "event_type": "lesson.finish", "purpose": "profiling"}
PLAIN = "attempts.error_message"
"""A column that encrypts a text; all others encrypt JSON."""


def encrypted_text(table: str, column: str, mark: str) -> str:
    """The canary that a column encrypts."""
    return f"{mark}-{table}-{column}".replace("_", "-")


def clear_text(table: str, column: str, user_id: str) -> str:
    """The value of a column of texts in the clear."""
    if column in ("user_id", "instance_id"):
        return f"{user_id}-i" if column == "instance_id" else user_id
    return _FIXED.get(column, f"clear-{user_id}-{table}-{column}")


async def fill(database: Database, owner: Connection, cipher: Cipher, user_id: str, mark: str) -> None:
    """Insert a row into every exported table except `users`."""
    await owner.fetchval("SELECT ensure_events_partition($1)", date(NOW.year, NOW.month, 1))
    async with database.transaction() as connection:
        key = await data_keys.require(connection, cipher, user_id)
        for table in TABLES:
            name = str(table.__tablename__)
            if name in exported_columns() and name != "users":
                row = _row(table, name, key, mark)
                places = ", ".join(f"${place}" for place in range(1, len(row) + 1))
                await connection.execute(
                    f"INSERT INTO {name} ({', '.join(row)}) VALUES ({places}) ON CONFLICT DO NOTHING",
                    *row.values(),
                )


def _row(table: type[SQLModel], name: str, key: DataKey, mark: str) -> dict[str, Any]:
    personal = personal_columns(table)
    row: dict[str, Any] = {}
    for column in columns_of(table):
        if column.name not in personal and not _is_generated(column):
            kind = column.type.python_type
            if kind is str:
                row[column.name] = clear_text(name, column.name, key.subject)
            elif kind is bytes:
                row[column.name] = sha256(key.subject.encode()).digest()
            else:
                row[column.name] = _CLEAR[kind]
    bound_to = [row[each] for each in ROW_COLUMNS.get(name, ())]
    for column_name, declared in personal.items():
        row[column_name] = _encrypted(name, column_name, declared.mask, key, mark, bound_to)
    return row


def _is_generated(column: Column[Any]) -> bool:
    return column.server_default is not None or isinstance(column.identity, Identity)


def _encrypted(table: str, column: str, kind: Mask, key: DataKey, mark: str, row: list[Any]) -> bytes | None:
    place, text = f"{table}.{column}", encrypted_text(table, column, mark)
    if kind is Mask.WORD:  # encrypted, and shown to every role
        return key.encrypt_json(place, clear_text(table, column, key.subject), *row)
    if place == PLAIN:
        return key.encrypt(place, text.encode(), *row)
    value: Any = text
    if kind is Mask.EVENT:
        parts = {"event_properties": {"note": text}, "device_info": {"id": f"{text}-id"}}
        value = {**parts, "location": {"city": f"{text}-city"}, "referrer": f"{text}-referrer"}
    elif kind is Mask.TEXTS:
        value = {"note": text, "many": [{"deep": text}]}
    elif column == "error":
        value = {"error_type": "Refused", "error_message": text, "failed_step": "nudge", "stack_trace": text}
    return key.encrypt_json(place, value, *row)
