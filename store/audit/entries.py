"""The audit log: appended to in the transaction of what it tells, read, and never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from models.audit import AuditEntry, AuditOutcome, Detail
from models.errors import AuditEntryNotFoundError
from store.connection import Connection

_LISTED_SUBJECTS = 100
_MOST_DIGITS = 18
_APPEND = """
INSERT INTO audit_log (actor, role, action, user_id, subjects, fields, request_id, outcome, details)
VALUES ($1, $2, $3, (SELECT k.subject FROM data_keys k WHERE k.subject = $4::text),
        string_to_array($5::text, ' '), $6::text[], $7, $8, $9::jsonb)
"""
"""A user id is kept where somebody has it, or has had it until being erased: one that is nobody's is a text of the
caller's choosing, and may be personal. Subjects go as one text, which costs half of what an array does; no user id
holds a space."""
_SHOWN = """audit_id, occurred_at, actor, role, action, user_id, {subjects} AS subjects,
            cardinality(subjects) AS subject_count, fields, request_id, outcome, details"""
_IN_A_LIST = _SHOWN.format(subjects=f"subjects[1:{_LISTED_SUBJECTS}]")
_ALONE = _SHOWN.format(subjects="subjects")


@dataclass(frozen=True)
class StoredEntry:
    """A row of the log."""

    audit_id: int
    occurred_at: datetime
    actor: str
    role: str
    action: str
    user_id: str | None
    subjects: Sequence[str]
    """In a list the first of them only; ``subject_count`` is of all."""
    subject_count: int
    fields: Sequence[str]
    request_id: str | None
    outcome: AuditOutcome
    details: Mapping[str, Detail]


@dataclass(frozen=True)
class AuditFilter:
    """Which rows are wanted; None is any. ``until`` is excluded."""

    user_id: str | None = None
    actor: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def names(self) -> str:
        """What it filters by, without the values."""
        return " ".join(name for name, value in vars(self).items() if value is not None)


async def append(connection: Connection, entries: Sequence[AuditEntry]) -> None:
    """Write entries to the log; they are there once the connection's transaction has committed.

    The log's number, transaction id and time of a row are the database's.
    """
    if len(entries) == 1:
        await connection.execute(_APPEND, *_values(entries[0]))
    elif entries:
        await connection.executemany(_APPEND, [_values(entry) for entry in entries])


async def page(
    connection: Connection, wanted: AuditFilter, *, before: tuple[datetime, int] | None, limit: int
) -> list[StoredEntry]:
    """Up to ``limit`` rows, the newest first, after a position in that order.

    Rows for a person and rows that name the person among others are two walks over two indexes.
    """
    values: list[object] = []

    def place(value: object) -> str:
        values.append(value)
        return f"${len(values)}"

    conditions = ["true"]
    if wanted.actor is not None:
        conditions.append(f"actor = {place(wanted.actor)}")
    if wanted.action is not None:
        conditions.append(f"action = {place(wanted.action)}")
    if wanted.since is not None:
        conditions.append(f"occurred_at >= {place(wanted.since)}")
    if wanted.until is not None:
        conditions.append(f"occurred_at < {place(wanted.until)}")
    if before is not None:
        conditions.append(f"(occurred_at, audit_id) < ({place(before[0])}, {place(before[1])})")
    branches = [" AND ".join(conditions)]
    if wanted.user_id is not None:
        user = place(wanted.user_id)
        branches = [
            f"{branches[0]} AND user_id = {user}",
            f"{branches[0]} AND subjects @> ARRAY[{user}::text] AND user_id IS DISTINCT FROM {user}",
        ]
    ordered = f"ORDER BY occurred_at DESC, audit_id DESC LIMIT {place(limit)}"
    parts = [f"(SELECT {_IN_A_LIST} FROM audit_log WHERE {branch} {ordered})" for branch in branches]
    rows = await connection.fetch(f"SELECT * FROM ({' UNION ALL '.join(parts)}) AS found {ordered}", *values)
    return [StoredEntry(**row) for row in rows]


async def find(connection: Connection, audit_id: str) -> StoredEntry:
    """One row in full. Raises :class:`AuditEntryNotFoundError`."""
    row = None
    if audit_id.isascii() and audit_id.isdecimal() and len(audit_id) <= _MOST_DIGITS:
        row = await connection.fetchrow(f"SELECT {_ALONE} FROM audit_log WHERE audit_id = $1", int(audit_id))
    if row is None:
        raise AuditEntryNotFoundError
    return StoredEntry(**row)


def _values(entry: AuditEntry) -> tuple[object, ...]:
    return (
        entry.actor,
        entry.role,
        entry.action,
        entry.user_id,
        " ".join(entry.subjects),
        list(entry.fields),
        entry.request_id,
        entry.outcome,
        dict(entry.details),
    )
