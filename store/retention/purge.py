"""Rows past their period: counted, and deleted a batch at a time.

Every function that deletes does one batch in the caller's transaction and says how many rows went; 0 says that
nothing is left. A batch is small, so that its transaction holds the log's horizon back for milliseconds. It
passes over rows that somebody else has locked: two sweeps at once share the work, and each counts what it took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from models.temporal.projection import PROJECTOR
from store.connection import Connection

BATCH = 5000
"""Rows that one transaction deletes at most."""
_IDS_LOCK = 0x7265_7469_6473  # "retids"
BLOCKS = 128
"""Blocks of a table (8 KiB each) that one transaction looks through at most, where no index leads to the rows."""


async def settings_of_a_batch(connection: Connection) -> None:
    """For the present transaction: its commit doesn't wait for the disk, and its statements are planned for what
    they are given.

    A crash of Postgres that forgets the commit forgets rows, counts and audit row together; the next run deletes
    the rows again.
    """
    await connection.execute(
        """SELECT set_config('synchronous_commit', 'off', true),
                  set_config('plan_cache_mode', 'force_custom_plan', true)"""
    )


@dataclass(frozen=True)
class TimeRange:
    """A table whose expired rows an index on their time leads to."""

    table: str
    key: str
    time: str
    condition: str = "true"

    @property
    def expired(self) -> str:
        """The condition of expired rows, with the cutoff as $1."""
        return f"{self.table}.{self.time} < $1 AND {self.condition}"


MESSAGES = TimeRange(
    "messages",
    "message_id",
    "created_at",
    "NOT EXISTS (SELECT FROM instances i WHERE i.instance_id = messages.instance_id AND i.end_time IS NULL)",
)
ANSWERS = TimeRange("idempotent_answers", "key_id, idempotency_key", "created_at")
INSTANCES = TimeRange("instances", "instance_id", "end_time")
EVENT_IDS = TimeRange("event_ids", "event_id", "timestamp")
CLOSED = TimeRange("users", "user_id", "closed_at")


@dataclass(frozen=True)
class TableScan:
    """A table that is looked through from its first block to its last."""

    table: str
    time: str
    condition: str = "true"

    @property
    def expired(self) -> str:
        """The condition of expired rows, with the cutoff as $1."""
        return f"{self.table}.{self.time} < $1 AND {self.condition}"


SESSIONS = TableScan("sessions", "last_at")
TRANSACTIONS = TableScan("transactions", "occurred_at")
POISON = TableScan("poison_events", "timestamp")
LETTERS = TableScan("temporal_outbox", "event_timestamp")
CALLBACKS = TableScan(
    "callbacks",
    "last_attempt_at",
    "callbacks.status <> 'waiting' "
    "AND NOT EXISTS (SELECT FROM instances i WHERE i.instance_id = callbacks.instance_id AND i.end_time IS NULL)",
)
"""`waiting` is what is still to be tried, also for the end of a replayed instance: :func:`store.instances.callbacks.due`."""


async def count(connection: Connection, table: TimeRange | TableScan, older_than: datetime) -> int:
    """How many rows of a table are expired."""
    found: int = await connection.fetchval(f"SELECT count(*) FROM {table.table} WHERE {table.expired}", older_than)
    return found


async def count_events(connection: Connection, begins: datetime, ends: datetime) -> int:
    """How many events the log has between two times."""
    found: int = await connection.fetchval(
        "SELECT count(*) FROM events WHERE timestamp >= $1 AND timestamp < $2", begins, ends
    )
    return found


async def audit_rows(connection: Connection, older_than: datetime) -> int:
    """How many rows of the audit log are in hours that ended before a time and are encrypted, so that they may go."""
    found: int = await connection.fetchval(
        """SELECT count(*) FROM audit_log WHERE occurred_at < (
               SELECT date_trunc('hour', least(s.expires_before, now() - interval '30 days', $1), 'UTC')
                 FROM audit_checkpoints s ORDER BY hour DESC LIMIT 1)""",
        older_than,
    )
    return found


async def delete_by_time(connection: Connection, table: TimeRange, older_than: datetime) -> int:
    """Delete a batch of expired rows, the oldest first."""
    gone: int = await connection.fetchval(
        f"""WITH expired AS MATERIALIZED (
                SELECT {table.key} FROM {table.table} WHERE {table.expired}
                 ORDER BY {table.time} LIMIT {BATCH} FOR UPDATE SKIP LOCKED),
                 gone AS (DELETE FROM {table.table} WHERE ({table.key}) IN (SELECT * FROM expired) RETURNING 1)
            SELECT count(*) FROM gone""",
        older_than,
    )
    return gone


async def blocks_of(connection: Connection, table: str) -> int:
    """How many blocks a table or partition has."""
    blocks: int = await connection.fetchval(
        "SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::integer", table
    )
    return blocks


def _places(first_block: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The rows of a batch of blocks are those from the first place on and before the second."""
    return (first_block, 0), (first_block + BLOCKS, 0)


async def delete_by_place(connection: Connection, table: TableScan, older_than: datetime, first_block: int) -> int:
    """Delete the expired rows of a batch of blocks."""
    gone: int = await connection.fetchval(
        f"""WITH gone AS (DELETE FROM {table.table}
                           WHERE {table.expired} AND ctid >= $2 AND ctid < $3 RETURNING 1)
            SELECT count(*) FROM gone""",
        older_than,
        *_places(first_block),
    )
    return gone


@dataclass(frozen=True)
class Emptied:
    """What became of the expired events of a batch of blocks."""

    deleted: int
    ids: int
    """Of the deleted events: as many as they, unless some were gone before."""
    unread: int
    """Kept, since the projector hasn't come to them."""


async def delete_events(
    connection: Connection, begins: datetime, older_than: datetime, first_block: int
) -> Emptied:
    """Delete the events of a month before a time, with their ids, in a batch of its partition's blocks.

    ``begins`` is the month's begin, and ``older_than`` no later than its end. Those that the projector hasn't come
    to stay. Event and id go together: an id is taken for as long as its event is kept.
    """
    places = _places(first_block)
    row = await connection.fetchrow(
        f"""WITH gone AS (
                DELETE FROM events e USING log_cursors c
                 WHERE e.timestamp >= $1 AND e.timestamp < $2 AND e.ctid >= $3 AND e.ctid < $4
                   AND c.consumer = '{PROJECTOR}' AND c.shard = e.shard
                   AND (e.generation, e.xid, e.sequence) <= (c.generation, c.xid, c.sequence)
                RETURNING e.event_id),
                 ids AS (DELETE FROM event_ids WHERE event_id IN (SELECT event_id FROM gone) RETURNING 1)
            SELECT (SELECT count(*) FROM gone) AS deleted, (SELECT count(*) FROM ids) AS ids""",
        begins,
        older_than,
        *places,
    )
    assert row is not None  # counts
    unread: int = await connection.fetchval(
        """SELECT count(*) FROM events e
            WHERE e.timestamp >= $1 AND e.timestamp < $2 AND e.ctid >= $3 AND e.ctid < $4""",
        begins,
        older_than,
        *places,
    )
    return Emptied(row["deleted"], row["ids"], unread)


async def delete_ids(
    connection: Connection, begins: datetime | None, ends: datetime
) -> tuple[int, datetime | None]:
    """Delete a batch of the ids of events between two times, oldest first; how many, and up to which time.

    The time is where the next batch begins, so that none looks again at what the last one has deleted. The runtime
    role may not lock these rows, so two sweeps take turns.
    """
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _IDS_LOCK)
    row = await connection.fetchrow(
        f"""WITH gone AS (
                DELETE FROM event_ids WHERE ctid = ANY(ARRAY(
                    SELECT ctid FROM event_ids
                     WHERE timestamp >= coalesce($1::timestamptz, '-infinity') AND timestamp < $2
                     ORDER BY timestamp LIMIT {BATCH}))
                RETURNING timestamp)
            SELECT count(*), max(timestamp) FROM gone""",
        begins,
        ends,
    )
    assert row is not None  # an aggregate
    return row[0], row[1]


@dataclass(frozen=True)
class EndedInstance:
    """An instance whose logs are expired."""

    instance_id: str
    workflow_id: str
    end_time: datetime


async def ended_instances(
    connection: Connection, older_than: datetime, after: tuple[datetime, str] | None, limit: int
) -> list[EndedInstance]:
    """The next expired instances, by the time of their end, after a position in that order."""
    rows = await connection.fetch(
        """SELECT instance_id, workflow_id, end_time FROM instances
            WHERE end_time < $1 AND ($2::timestamptz IS NULL OR (end_time, instance_id) > ($2, $3))
            ORDER BY end_time, instance_id LIMIT $4""",
        older_than,
        *(after or (None, None)),
        limit,
    )
    return [EndedInstance(**row) for row in rows]


async def delete_instances(
    connection: Connection, instance_ids: Sequence[str], older_than: datetime
) -> Mapping[str, int]:
    """Delete what is kept of some expired instances; how many rows of each table."""
    row = await connection.fetchrow(
        """
        WITH expired AS MATERIALIZED (
            SELECT instance_id FROM instances WHERE instance_id = ANY($1::text[]) AND end_time < $2
             ORDER BY instance_id FOR UPDATE SKIP LOCKED),
             gone_steps AS (DELETE FROM steps WHERE instance_id IN (SELECT * FROM expired) RETURNING 1),
             gone_attempts AS (DELETE FROM attempts WHERE instance_id IN (SELECT * FROM expired) RETURNING 1),
             gone_waits AS (DELETE FROM event_waits WHERE instance_id IN (SELECT * FROM expired) RETURNING 1),
             gone_letters AS (DELETE FROM dead_letters WHERE instance_id IN (SELECT * FROM expired) RETURNING 1),
             gone_callbacks AS (DELETE FROM callbacks WHERE instance_id IN (SELECT * FROM expired) RETURNING 1),
             gone AS (DELETE FROM instances WHERE instance_id IN (SELECT * FROM expired) RETURNING 1)
        SELECT (SELECT count(*) FROM gone) AS instances, (SELECT count(*) FROM gone_steps) AS steps,
               (SELECT count(*) FROM gone_attempts) AS attempts, (SELECT count(*) FROM gone_waits) AS event_waits,
               (SELECT count(*) FROM gone_letters) AS dead_letters,
               (SELECT count(*) FROM gone_callbacks) AS callbacks
        """,
        list(instance_ids),
        older_than,
    )
    assert row is not None  # a row of counts
    return dict(row)


async def expire_audit_hour(connection: Connection) -> int | None:
    """Delete the oldest hour of the audit log, where its encrypts let it go; None where none may go."""
    row = await connection.fetchrow("SELECT expired_hour, expired_rows FROM expire_audit_hour()")
    return None if row is None or row["expired_hour"] is None else row["expired_rows"]


async def dormant_profiles(connection: Connection, older_than: datetime) -> int:
    """How many profiles have neither changed nor been active since a time; closed ones have their own period."""
    found: int = await connection.fetchval(
        """SELECT count(*) FROM users u LEFT JOIN user_activity a USING (user_id)
            WHERE greatest(u.updated_at, a.last_session_date, a.updated_at) < $1 AND u.closed_at IS NULL""",
        older_than,
    )
    return found
