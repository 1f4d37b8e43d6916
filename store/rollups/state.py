"""Up to which time the rollups are complete, and what waits for the compactor."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from models.rules.sharding import SHARDS
from models.temporal.system import PROJECTOR
from store.connection import Connection
from store.statements import sql

# SQL text: a LATERAL. For each shard, the beginning of what the projector hasn't read.
_STATE = sql(
    """SELECT waiting.deltas, waiting.events, waiting.oldest, least(waiting.oldest, unread.oldest, now()) AS as_of
         FROM (SELECT count(*) AS deltas, CAST(coalesce(sum(events), 0) AS bigint) AS events,
                      min(received_at) AS oldest
                 FROM rollup_deltas) AS waiting
        CROSS JOIN (
              SELECT min(first.received_at) AS oldest
                FROM generate_series(0, CAST(:last_shard AS integer)) AS shards (shard)
                LEFT JOIN log_cursors c ON c.consumer = :projector AND c.shard = shards.shard
               CROSS JOIN LATERAL (
                     SELECT e.received_at FROM events e
                      WHERE e.shard = shards.shard
                        AND (e.generation, e.xid, e.sequence)
                            > (coalesce(c.generation, 0), coalesce(c.xid, '0'), coalesce(c.sequence, 0))
                      ORDER BY e.generation, e.xid, e.sequence LIMIT 100) AS first) AS unread"""
)
# SQL text: a LATERAL over the keys of a JSON document.
_OTHERS = sql(
    """SELECT s.event_type, d.key AS dimension, CAST(sum(h.events) AS bigint) AS events
         FROM rollup_series s
         JOIN rollup_hours h ON h.series_id = s.series_id
        CROSS JOIN LATERAL jsonb_each_text(s.dimensions) AS d (key, value)
        WHERE d.value = '(other)'
        GROUP BY 1, 2 ORDER BY 1, 2"""
)


@dataclass(frozen=True)
class RollupState:
    deltas: int
    events: int
    """In the waiting deltas."""
    oldest: datetime | None
    """When the oldest waiting event was received."""
    as_of: datetime
    """Events that were received before this time are in the rollups."""


@dataclass(frozen=True)
class Others:
    """Events whose value of a dimension was beyond the limit."""

    event_type: str
    dimension: str
    events: int


async def state(connection: Connection) -> RollupState:
    """Read it before the rollups: ``as_of`` then holds for what is read."""
    row = await _STATE.fetchrow(connection, projector=PROJECTOR, last_shard=SHARDS - 1)
    assert row is not None
    return RollupState(row["deltas"], row["events"], row["oldest"], row["as_of"])


async def others(connection: Connection) -> list[Others]:
    """How many events count as `(other)`, by event type and dimension."""
    return [Others(*row) for row in await _OTHERS.fetch(connection)]
