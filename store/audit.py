"""The audit log: appended to in the transaction of what it tells, read, and never changed."""

from __future__ import annotations

from collections.abc import Sequence

from models.audit import AuditEntry
from store.connection import Connection

_APPEND = """
INSERT INTO audit_log (actor, role, action, user_id, subjects, fields, request_id, outcome, details)
VALUES ($1, $2, $3, $4, $5::text[], $6::text[], $7, $8, $9::jsonb)
"""


async def append(connection: Connection, entries: Sequence[AuditEntry]) -> None:
    """Write entries to the log; they are there once the connection's transaction has committed.

    The log's number, transaction id and time of a row are the database's.
    """
    if len(entries) == 1:
        await connection.execute(_APPEND, *_values(entries[0]))
    elif entries:
        await connection.executemany(_APPEND, [_values(entry) for entry in entries])


def _values(entry: AuditEntry) -> tuple[object, ...]:
    return (
        entry.actor,
        entry.role,
        entry.action,
        entry.user_id,
        list(entry.subjects),
        list(entry.fields),
        entry.request_id,
        entry.outcome,
        dict(entry.details),
    )
