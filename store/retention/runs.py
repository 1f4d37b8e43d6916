"""Runs of the retention: what each has done so far, written with the doing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from models.audit import SYSTEM, AuditEntry
from models.errors import RetentionRunNotFoundError
from models.temporal.retention import SYSTEM_ACTOR
from store.audit import entries
from store.connection import Connection
from store.retention.periods import Retention

Action = Literal["dropped", "deleted", "held", "due"]


@dataclass(frozen=True)
class Removal:
    """Rows of one part of a type of data: that went, or that stay.

    ``held``: past their period, and kept for a reason (see docs/retention.md). ``due``: to be erased by another
    part of the platform; nothing was done.
    """

    part: str
    action: Action
    rows: int
    older_than: datetime


@dataclass(frozen=True)
class StoredResult:
    """What a run has done with one part of a type of data so far."""

    data_type: str
    part: str
    action: Action
    rows: int
    older_than: datetime
    updated_at: datetime


@dataclass(frozen=True)
class StoredRun:
    """A run, and what it has done so far."""

    run_id: str
    requested_by: str
    data_types: Sequence[str]
    failed: Sequence[str] | None
    started_at: datetime
    finished_at: datetime | None
    results: Sequence[StoredResult]


async def begin(connection: Connection, run_id: str, requested_by: str, data_types: Sequence[str]) -> None:
    """Write that a run begins; once."""
    await connection.execute(
        """INSERT INTO retention_runs (run_id, requested_by, data_types) VALUES ($1, $2, $3)
           ON CONFLICT (run_id) DO NOTHING""",
        run_id,
        requested_by,
        list(data_types),
    )


async def finish(connection: Connection, run_id: str, failed: Sequence[str], kept_days: int) -> None:
    """Write a run's end, and forget runs that ended longer ago than the audit log remembers."""
    await connection.execute(
        "UPDATE retention_runs SET failed = $2, finished_at = now() WHERE run_id = $1 AND finished_at IS NULL",
        run_id,
        list(failed),
    )
    await connection.execute(
        """WITH old AS (DELETE FROM retention_runs WHERE started_at < now() - make_interval(days => $1)
                        RETURNING run_id)
           DELETE FROM retention_results USING old WHERE retention_results.run_id = old.run_id""",
        kept_days,
    )


async def record(connection: Connection, run_id: str, policy: Retention, removal: Removal) -> None:
    """Write what went, for the run and for the audit log; in the transaction in which it goes.

    So the counts are exact, whoever dies when: rows, count and audit row are gone, or there, together.
    """
    gone = removal.action in ("dropped", "deleted")
    if gone and not removal.rows and removal.action == "deleted":
        return
    await connection.execute(
        """INSERT INTO retention_results AS r (run_id, data_type, part, action, rows, older_than)
           VALUES ($1, $2, $3, $4, $5, $6)
           ON CONFLICT (run_id, data_type, part, action) DO UPDATE
           SET rows = CASE WHEN $7 THEN r.rows ELSE 0 END + excluded.rows, older_than = excluded.older_than,
               updated_at = now()""",
        run_id,
        policy.data_type,
        removal.part,
        removal.action,
        removal.rows,
        removal.older_than,
        gone,
    )
    if gone and removal.rows:
        await entries.append(connection, [_audited(run_id, policy, removal)])


def _audited(run_id: str, policy: Retention, removal: Removal) -> AuditEntry:
    return AuditEntry(
        actor=SYSTEM_ACTOR,
        role=SYSTEM,
        action="retention.delete",
        details={
            "data_type": policy.data_type,
            "part": removal.part,
            "how": removal.action,
            "rows": removal.rows,
            "older_than": removal.older_than.isoformat(),
            "days": policy.days,
            "policy": policy.changed_by or "default",
            "run_id": run_id,
        },
    )


async def find(connection: Connection, run_id: str) -> StoredRun:
    """A run with its results; raises :class:`RetentionRunNotFoundError`."""
    row = await connection.fetchrow("SELECT * FROM retention_runs WHERE run_id = $1", run_id)
    if row is None:
        raise RetentionRunNotFoundError
    results = await connection.fetch(
        """SELECT data_type, part, action, rows, older_than, updated_at FROM retention_results
            WHERE run_id = $1 ORDER BY data_type, part, action""",
        run_id,
    )
    return StoredRun(**row, results=[StoredResult(**each) for each in results])


async def page(connection: Connection, *, before: tuple[datetime, str] | None, limit: int) -> list[StoredRun]:
    """Runs without their results, newest first, after a position in that order."""
    rows = await connection.fetch(
        """SELECT * FROM retention_runs WHERE ($1::timestamptz IS NULL OR (started_at, run_id) < ($1, $2))
            ORDER BY started_at DESC, run_id DESC LIMIT $3""",
        before[0] if before else None,
        before[1] if before else None,
        limit,
    )
    return [StoredRun(**row, results=()) for row in rows]
