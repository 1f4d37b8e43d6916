"""Retention runs and their results so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from sqlalchemy import Boolean, Interval, bindparam, case, delete, func, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from models.audit import SYSTEM, AuditEntry
from models.errors import RetentionRunNotFoundError
from models.tables.retention import RetentionResult, RetentionRunRow
from models.temporal.system import SYSTEM_ACTOR
from store.audit import entries
from store.connection import Connection, use_background_settings
from store.retention import periods
from store.retention.periods import Retention
from store.statements import filtered, parameters, select, statement

Action = Literal["dropped", "deleted", "held", "due"]
"""``held``: expired, but kept for a reason that docs/retention.md lists. ``due``: people who are due for erasure.
A run only counts them; no part of the platform erases them yet."""


@dataclass(frozen=True)
class StoredResult:
    """A run's action on one part of a data type, and its rows so far."""

    data_type: str
    part: str
    action: Action
    rows: int
    older_than: datetime
    updated_at: datetime


@dataclass(frozen=True)
class StoredRun:
    run_id: str
    requested_by: str
    data_types: Sequence[str]
    failed: Sequence[str] | None
    started_at: datetime
    finished_at: datetime | None
    results: Sequence[StoredResult]


_RUN, _RESULT = RetentionRunRow, RetentionResult
_BEGIN = statement(
    insert(_RUN)
    .values(parameters("run_id", "requested_by", "data_types"))
    .on_conflict_do_nothing(index_elements=["run_id"])
)
_FINISH = statement(
    update(_RUN)
    .where(col(_RUN.run_id) == bindparam("id"), col(_RUN.finished_at).is_(None))
    .values(failed=bindparam("failed"), finished_at=func.now())
)
_is_old = col(_RUN.started_at) < func.now() - bindparam("kept", type_=Interval)
_DELETE_OLD_RESULTS = statement(
    delete(_RESULT).where(col(_RESULT.run_id).in_(select(col(_RUN.run_id)).where(_is_old)))
)
_DELETE_OLD_RUNS = statement(delete(_RUN).where(_is_old))
_insert = insert(_RESULT).values(
    parameters("run_id", "data_type", "part", "action", "rows", "older_than"),
)
_RECORD = statement(
    _insert.on_conflict_do_update(
        index_elements=["run_id", "data_type", "part", "action"],
        set_={
            "rows": case((bindparam("adds", type_=Boolean), col(_RESULT.rows)), else_=0) + _insert.excluded.rows,
            "older_than": _insert.excluded.older_than,
            "updated_at": func.now(),
        },
    )
)
_RUN_COLUMNS = (
    *(col(_RUN.run_id), col(_RUN.requested_by), col(_RUN.data_types)),
    *(col(_RUN.failed), col(_RUN.started_at), col(_RUN.finished_at)),
)
_FIND = statement(select(*_RUN_COLUMNS).where(col(_RUN.run_id) == bindparam("run_id")))
_FIND_RESULTS = statement(
    select(
        *(col(_RESULT.data_type), col(_RESULT.part), col(_RESULT.action)),
        *(col(_RESULT.rows), col(_RESULT.older_than), col(_RESULT.updated_at)),
    )
    .where(col(_RESULT.run_id) == bindparam("run_id"))
    .order_by(col(_RESULT.data_type), col(_RESULT.part), col(_RESULT.action))
)
_position = tuple_(col(_RUN.started_at), col(_RUN.run_id))
_PAGE = filtered(
    select(*_RUN_COLUMNS).order_by(col(_RUN.started_at).desc(), col(_RUN.run_id).desc()).limit(bindparam("limit")),
    before=_position < tuple_(bindparam("before_time"), bindparam("before_id")),
)


async def begin(connection: Connection, run_id: str, requested_by: str, data_types: Sequence[str]) -> None:
    """Insert a run, unless it exists: the API and the run's first activity both call this."""
    await _BEGIN.execute(connection, run_id=run_id, requested_by=requested_by, data_types=list(data_types))


async def finish(connection: Connection, run_id: str, failed: Sequence[str], kept_days: int) -> None:
    """Write a run's end, and delete runs that started more than ``kept_days`` ago."""
    await _FINISH.execute(connection, id=run_id, failed=list(failed))
    await _DELETE_OLD_RESULTS.execute(connection, kept=timedelta(days=kept_days))
    await _DELETE_OLD_RUNS.execute(connection, kept=timedelta(days=kept_days))


class RetentionExtendedError(Exception):
    """The period was extended or removed since the purge began: end the purge."""


@dataclass(frozen=True)
class Batch:
    """One transaction of a run that purges a data type, with the period at the transaction's beginning."""

    connection: Connection
    run_id: str
    retention: Retention
    older_than: datetime
    """The purge's cutoff, or an earlier one if the period has been extended since."""

    async def record(self, part: str, action: Action, rows: int) -> None:
        """Record rows of a table, a partition, or Temporal's histories, in the transaction that deletes them.

        Deleted rows add up over the run's batches, and each deletion gets an audit row. Deletion, count and audit
        row commit together, so they stay consistent after a crash.
        """
        if action == "deleted" and not rows:
            return
        deletes = action in ("dropped", "deleted")
        await _RECORD.execute(
            self.connection,
            run_id=self.run_id,
            data_type=self.retention.data_type,
            part=part,
            action=action,
            rows=rows,
            older_than=self.older_than,
            adds=deletes,
        )
        if deletes and rows:
            await entries.append(self.connection, [self._audit_entry(part, action, rows)])

    def _audit_entry(self, part: str, action: Action, rows: int) -> AuditEntry:
        return AuditEntry(
            actor=SYSTEM_ACTOR,
            role=SYSTEM,
            action="retention.delete",
            details={
                "data_type": self.retention.data_type,
                "part": part,
                "how": action,
                "rows": rows,
                "older_than": self.older_than.isoformat(),
                "days": self.retention.days,
                "policy": self.retention.changed_by or "default",
                "run_id": self.run_id,
            },
        )


async def begin_batch(connection: Connection, run_id: str, data_type: str, older_than: datetime) -> Batch:
    """Begin a batch. Call it first in a transaction. Raises :class:`RetentionExtendedError`."""
    retention = await periods.find(connection, data_type)
    allowed = retention.older_than(datetime.now(UTC))
    if allowed is None:
        raise RetentionExtendedError
    # If a crash of Postgres loses the commit, the next run finds the rows again.
    await use_background_settings(connection)
    return Batch(connection, run_id, retention, min(older_than, allowed))


async def find(connection: Connection, run_id: str) -> StoredRun:
    """A run with its results. Raises :class:`RetentionRunNotFoundError`."""
    row = await _FIND.fetchrow(connection, run_id=run_id)
    if row is None:
        raise RetentionRunNotFoundError
    results = await _FIND_RESULTS.fetch(connection, run_id=run_id)
    return StoredRun(**row, results=[StoredResult(**each) for each in results])


async def page(connection: Connection, *, before: tuple[datetime, str] | None, limit: int) -> list[StoredRun]:
    """Runs without results, newest first, after a position in that order."""
    before_time, before_id = before or (None, None)
    rows = await _PAGE.fetch(connection, before_time=before_time, before_id=before_id, limit=limit)
    return [StoredRun(**row, results=()) for row in rows]
