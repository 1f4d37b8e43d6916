"""Counts expired rows, and deletes them in batches.

Each deleting function processes one batch in the caller's transaction and returns the number of rows. Batches are
small, so that each holds the log's horizon back only for milliseconds. A batch skips rows that another transaction
has locked. So concurrent purges share the work, and each counts its own deletions.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, bindparam, column, delete, func, inspect, tuple_
from sqlalchemy.sql.elements import SQLCoreOperations
from sqlmodel import SQLModel, col

from models.tables.access import IdempotentAnswer
from models.tables.audit import AuditCheckpoint, AuditRow
from models.tables.events import Event, EventId, PoisonEvent
from models.tables.execution import Callback, Decision, Instance, Message
from models.tables.people import User
from models.tables.projections import Session, TemporalOutbox, Transaction, UserActivity
from models.temporal.system import PROJECTOR
from store.connection import Connection
from store.statements import filtered, select, sql, statement

BATCH = 5000
"""The most rows that one transaction deletes."""
BLOCKS = 128
"""Blocks of 8 KiB that one transaction scans, if no index finds expired rows."""
_EVENT_IDS_LOCK = 0x7265_7469_6473  # "retids"
_AUDIT_AGE = timedelta(days=30)
_CTID: ColumnElement[tuple[int, int]] = column("ctid")


class ExpiringTable:
    """A table, and the condition on its expired rows."""

    def __init__(
        self, model: type[SQLModel], time: SQLCoreOperations[datetime | None], *conditions: ColumnElement[bool]
    ) -> None:
        self.name = str(model.__tablename__)
        self._model = model
        self._time = time
        self._expired = (time < bindparam("older_than"), *conditions)
        self._count = statement(select(func.count()).select_from(model).where(*self._expired))

    async def count(self, connection: Connection, older_than: datetime) -> int:
        """The number of expired rows."""
        found: int = await self._count.fetchval(connection, older_than=older_than)
        return found


class IndexScan(ExpiringTable):
    """A table with an index on the time that decides expiry."""

    def __init__(
        self, model: type[SQLModel], time: SQLCoreOperations[datetime | None], *conditions: ColumnElement[bool]
    ) -> None:
        super().__init__(model, time, *conditions)
        key = inspect(model).primary_key
        # MATERIALIZED: else a nested loop may run LIMIT and SKIP LOCKED once per row.
        batch = (
            select(*key)
            .where(*self._expired)
            .order_by(time)
            .limit(BATCH)
            .with_for_update(skip_locked=True)
            .cte("batch")
            .prefix_with("MATERIALIZED")
        )
        self._delete = statement(delete(model).where(tuple_(*key).in_(select(*batch.c))))

    async def delete(self, connection: Connection, older_than: datetime) -> int:
        """Delete the oldest expired rows; returns 0 if none is left, except locked ones."""
        return await self._delete.execute(connection, older_than=older_than)


class TableScan(ExpiringTable):
    """A table without such an index. It is purged block by block, from first to last."""

    def __init__(
        self, model: type[SQLModel], time: SQLCoreOperations[datetime | None], *conditions: ColumnElement[bool]
    ) -> None:
        super().__init__(model, time, *conditions)
        self._delete = statement(
            delete(model).where(*self._expired, bindparam("first") <= _CTID, bindparam("last") > _CTID)
        )

    async def delete(self, connection: Connection, older_than: datetime, first_block: int) -> int:
        """Delete the expired rows of the next :data:`BLOCKS` blocks."""
        first, last = _places(first_block)
        return await self._delete.execute(connection, older_than=older_than, first=first, last=last)


def _runs_still(instance_id: SQLCoreOperations[str]) -> ColumnElement[bool]:
    running = select(col(Instance.instance_id)).where(col(Instance.end_time).is_(None))
    return running.where(col(Instance.instance_id) == instance_id).exists()


MESSAGES = IndexScan(Message, col(Message.created_at), ~_runs_still(col(Message.instance_id)))
DECISIONS = IndexScan(Decision, col(Decision.hour))
IDEMPOTENT_ANSWERS = IndexScan(IdempotentAnswer, col(IdempotentAnswer.created_at))
INSTANCES = ExpiringTable(Instance, col(Instance.end_time))
EVENT_IDS = ExpiringTable(EventId, col(EventId.timestamp))
CLOSED_ACCOUNTS = ExpiringTable(User, col(User.closed_at))
SESSIONS = TableScan(Session, col(Session.last_at))
TRANSACTIONS = TableScan(Transaction, col(Transaction.occurred_at))
POISON_EVENTS = TableScan(PoisonEvent, col(PoisonEvent.timestamp))
OUTBOX_ENTRIES = TableScan(TemporalOutbox, col(TemporalOutbox.event_timestamp))
# A `waiting` callback will be attempted, also for the new end of a replayed instance.
CALLBACKS = TableScan(
    Callback,
    col(Callback.last_attempt_at),
    col(Callback.status) != "waiting",
    ~_runs_still(col(Callback.instance_id)),
)

# SQL text: catalogue.
_BLOCKS_OF = sql(
    "SELECT pg_relation_size(CAST(CAST(:name AS text) AS regclass)) / current_setting('block_size')::integer"
)


async def blocks_of(connection: Connection, name: str) -> int:
    blocks: int = await _BLOCKS_OF.fetchval(connection, name=name)
    return blocks


def _places(first_block: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The ctids at the beginning (inclusive) and end (exclusive) of a batch of blocks."""
    return (first_block, 0), (first_block + BLOCKS, 0)


_COUNT_EVENTS = statement(
    select(func.count())
    .select_from(Event)
    .where(col(Event.timestamp) >= bindparam("begins"), col(Event.timestamp) < bindparam("ends"))
)
# SQL text: a CTE that writes two tables. An id is kept as long as its event, so both are deleted.
_DELETE_EVENTS = sql(
    f"""WITH gone AS (
            DELETE FROM events e USING log_cursors c
             WHERE e.timestamp >= :begins AND e.timestamp < :ends AND e.ctid >= :first AND e.ctid < :last
               AND c.consumer = '{PROJECTOR}' AND c.shard = e.shard
               AND (e.generation, e.xid, e.sequence) <= (c.generation, c.xid, c.sequence)
            RETURNING e.event_id),
             ids AS (DELETE FROM event_ids WHERE event_id IN (SELECT event_id FROM gone) RETURNING 1)
        SELECT (SELECT count(*) FROM gone) AS events, (SELECT count(*) FROM ids) AS ids"""
)
_COUNT_UNPROJECTED = statement(
    select(func.count())
    .select_from(Event)
    .where(
        *(col(Event.timestamp) >= bindparam("begins"), col(Event.timestamp) < bindparam("ends")),
        *(bindparam("first") <= _CTID, bindparam("last") > _CTID),
    )
)
# SQL text: rows by ctid, and an aggregate of the deleted rows.
_DELETE_EVENT_IDS = sql(
    f"""WITH gone AS (
            DELETE FROM event_ids WHERE ctid = ANY(ARRAY(
                SELECT ctid FROM event_ids
                 WHERE timestamp >= coalesce(CAST(:begins AS timestamptz), '-infinity') AND timestamp < :ends
                 ORDER BY timestamp LIMIT {BATCH}))
            RETURNING timestamp)
        SELECT count(*) AS ids, max(timestamp) AS reached FROM gone"""
)
# SQL text: an advisory lock.
_LOCK_EVENT_IDS = sql(f"SELECT pg_advisory_xact_lock({_EVENT_IDS_LOCK})")


async def count_events(connection: Connection, begins: datetime, ends: datetime) -> int:
    """``begins`` is inclusive, ``ends`` exclusive."""
    found: int = await _COUNT_EVENTS.fetchval(connection, begins=begins, ends=ends)
    return found


@dataclass(frozen=True)
class DeletedEvents:
    """The result of :func:`delete_events`."""

    events: int
    ids: int
    """Equals ``events``, unless ids were missing."""
    unprojected: int
    """Events that stay until the projector has read them."""


async def delete_events(
    connection: Connection, begins: datetime, ends: datetime, first_block: int
) -> DeletedEvents:
    """Delete events that the projector has read, and their ids, in a batch of a partition's blocks.

    ``begins`` is the partition's, and ``ends`` at most its end, so that Postgres scans only this partition.
    """
    first, last = _places(first_block)
    within = {"begins": begins, "ends": ends, "first": first, "last": last}
    row = await _DELETE_EVENTS.fetchrow(connection, **within)
    assert row is not None  # counts
    unprojected: int = await _COUNT_UNPROJECTED.fetchval(connection, **within)
    return DeletedEvents(row["events"], row["ids"], unprojected)


async def delete_event_ids(
    connection: Connection, begins: datetime | None, ends: datetime
) -> tuple[int, datetime | None]:
    """Delete the oldest event ids between two times; returns their number, and the time of the last.

    Begin the next batch at that time, so that it doesn't read the index entries of deleted ids again.
    """
    # The runtime role may not update event_ids, so it can't lock rows. Purges queue at an advisory lock instead.
    await _LOCK_EVENT_IDS.execute(connection)
    row = await _DELETE_EVENT_IDS.fetchrow(connection, begins=begins, ends=ends)
    assert row is not None  # aggregates
    return row["ids"], row["reached"]


@dataclass(frozen=True)
class EndedInstance:
    """An instance whose execution logs have expired."""

    instance_id: str
    workflow_id: str
    end_time: datetime


_ENDED_INSTANCES = filtered(
    select(col(Instance.instance_id), col(Instance.workflow_id), col(Instance.end_time))
    .where(col(Instance.end_time) < bindparam("older_than"))
    .order_by(col(Instance.end_time), col(Instance.instance_id))
    .limit(bindparam("limit")),
    after=tuple_(col(Instance.end_time), col(Instance.instance_id))
    > tuple_(bindparam("after_time"), bindparam("after_id")),
)


async def ended_instances(
    connection: Connection, older_than: datetime, after: tuple[datetime, str] | None, limit: int
) -> list[EndedInstance]:
    """Expired instances by end time, after a position in that order."""
    after_time, after_id = after or (None, None)
    rows = await _ENDED_INSTANCES.fetch(
        connection, older_than=older_than, after_time=after_time, after_id=after_id, limit=limit
    )
    return [EndedInstance(**row) for row in rows]


_may_expire = func.least(col(AuditCheckpoint.expires_before), func.now() - _AUDIT_AGE, bindparam("older_than"))
_COUNT_AUDIT_ROWS = statement(
    select(func.count())
    .select_from(AuditRow)
    .where(
        col(AuditRow.occurred_at)
        < select(func.date_trunc("hour", _may_expire, "UTC"))
        .order_by(col(AuditCheckpoint.hour).desc())
        .limit(1)
        .scalar_subquery()
    )
)


async def count_audit_rows(connection: Connection, older_than: datetime) -> int:
    """The number of audit rows in whole hours that ended before a time and may expire by the checkpoints."""
    found: int = await _COUNT_AUDIT_ROWS.fetchval(connection, older_than=older_than)
    return found


_COUNT_DORMANT = statement(
    select(func.count())
    .select_from(User)
    .outerjoin(UserActivity, col(UserActivity.user_id) == col(User.user_id))
    .where(
        func.greatest(col(User.updated_at), col(UserActivity.last_session_date), col(UserActivity.updated_at))
        < bindparam("older_than"),
        col(User.closed_at).is_(None),
    )
)


async def count_dormant_profiles(connection: Connection, older_than: datetime) -> int:
    """The number of open profiles without a change or activity since a time."""
    found: int = await _COUNT_DORMANT.fetchval(connection, older_than=older_than)
    return found
