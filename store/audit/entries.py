"""Rows of the audit log: appended and read, never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import islice

import asyncpg
from sqlalchemy import Text, bindparam, func, tuple_
from sqlalchemy.dialects.postgresql import array, insert
from sqlmodel import col

from models.audit import AuditEntry, AuditOutcome, Detail
from models.errors import AuditEntryNotFoundError
from models.tables.audit import AuditRow
from models.tables.people import DataKey
from store.connection import Connection
from store.statements import filtered, parameters, select, statement

_LISTED_SUBJECTS = 100
_MOST_DIGITS = 18

# NULL for an id that no user has or had. The caller chose that text, and it may be personal data.
_known_user = select(col(DataKey.subject)).where(col(DataKey.subject) == bindparam("for_user"))
# Subjects are sent as one text: half the cost of an array. No user id contains a space.
_subjects = func.string_to_array(bindparam("all_subjects", type_=Text), " ")
_APPEND = statement(
    insert(AuditRow).values(
        parameters("actor", "role", "action", "fields", "request_id", "outcome", "details")
        | {"user_id": _known_user.scalar_subquery(), "subjects": _subjects}
    )
)
_COLUMNS = (
    *(col(AuditRow.audit_id), col(AuditRow.occurred_at), col(AuditRow.actor), col(AuditRow.role)),
    *(col(AuditRow.action), col(AuditRow.user_id), func.cardinality(AuditRow.subjects).label("subject_count")),
    *(col(AuditRow.fields), col(AuditRow.request_id), col(AuditRow.outcome), col(AuditRow.details)),
)
_FIND = statement(select(*_COLUMNS, col(AuditRow.subjects)).where(col(AuditRow.audit_id) == bindparam("audit_id")))
_user = bindparam("user_id", type_=Text)
_list = (
    select(*_COLUMNS, col(AuditRow.subjects)[1:_LISTED_SUBJECTS].label("subjects"))
    .order_by(col(AuditRow.occurred_at).desc(), col(AuditRow.audit_id).desc())
    .limit(bindparam("limit"))
)
_FILTERS = {
    "actor": col(AuditRow.actor) == bindparam("actor"),
    "action": col(AuditRow.action) == bindparam("action"),
    "since": col(AuditRow.occurred_at) >= bindparam("since"),
    "until": col(AuditRow.occurred_at) < bindparam("until"),
    "before": tuple_(col(AuditRow.occurred_at), col(AuditRow.audit_id))
    < tuple_(bindparam("before_time"), bindparam("before_id")),
}
_PAGE = filtered(_list, **_FILTERS)
# Two statements, each with its own index: with an OR, Postgres couldn't read either index in order.
_PAGE_FOR_USER = filtered(_list.where(col(AuditRow.user_id) == _user), **_FILTERS)
_PAGE_NAMING_USER = filtered(
    _list.where(col(AuditRow.subjects).contains(array([_user])), col(AuditRow.user_id).is_distinct_from(_user)),
    **_FILTERS,
)


@dataclass(frozen=True)
class StoredEntry:
    audit_id: int
    occurred_at: datetime
    actor: str
    role: str
    action: str
    user_id: str | None
    subjects: Sequence[str]
    """Only the first 100 in a list of entries; ``subject_count`` counts all."""
    subject_count: int
    fields: Sequence[str]
    request_id: str | None
    outcome: AuditOutcome
    details: Mapping[str, Detail]


@dataclass(frozen=True)
class AuditFilter:
    """Conditions on listed rows; None matches any. ``until`` is exclusive."""

    user_id: str | None = None
    actor: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def names(self) -> str:
        """The names of the filters that are set, without their values."""
        return " ".join(name for name, value in vars(self).items() if value is not None)


async def append(connection: Connection, entries: Sequence[AuditEntry]) -> None:
    """Append entries in the connection's transaction. Postgres sets each row's number, transaction id and time."""
    if len(entries) == 1:
        await _APPEND.execute(connection, **_values(entries[0]))
    elif entries:
        await _APPEND.executemany(connection, [_values(entry) for entry in entries])


async def page(
    connection: Connection, wanted: AuditFilter, *, before: tuple[datetime, int] | None, limit: int
) -> list[StoredEntry]:
    """Rows that match a filter, newest first, after a position in that order."""
    before_time, before_id = before or (None, None)
    values = vars(wanted) | {"before_time": before_time, "before_id": before_id, "limit": limit}
    if wanted.user_id is None:
        del values["user_id"]
        rows = await _PAGE.fetch(connection, **values)
    else:
        about = await _PAGE_FOR_USER.fetch(connection, **values)
        naming = await _PAGE_NAMING_USER.fetch(connection, **values)
        rows = list(islice(merge(about, naming, key=_place, reverse=True), limit))
    return [StoredEntry(**row) for row in rows]


def _place(row: asyncpg.Record) -> tuple[datetime, int]:
    return row["occurred_at"], row["audit_id"]


async def find(connection: Connection, audit_id: str) -> StoredEntry:
    """One row with all of its subjects. Raises :class:`AuditEntryNotFoundError`."""
    row = None
    if audit_id.isascii() and audit_id.isdecimal() and len(audit_id) <= _MOST_DIGITS:
        row = await _FIND.fetchrow(connection, audit_id=int(audit_id))
    if row is None:
        raise AuditEntryNotFoundError
    return StoredEntry(**row)


def _values(entry: AuditEntry) -> dict[str, object]:
    return {
        "actor": entry.actor,
        "role": entry.role,
        "action": entry.action,
        "for_user": entry.user_id,
        "all_subjects": " ".join(entry.subjects),
        "fields": list(entry.fields),
        "request_id": entry.request_id,
        "outcome": entry.outcome,
        "details": dict(entry.details),
    }
