"""How far each consumer of the event log is behind, and the session that holds the log's horizon back.

A consumer reads only events below the horizon: the oldest write transaction of the whole Postgres cluster that is
still open. One that stays open stops every consumer, also if it has nothing to do with Perennial.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from checks.unmet import Unmet
from models.rules.sharding import SHARDS
from models.temporal.system import PROJECTOR
from runtime.database import UNREACHABLE, Database
from runtime.metrics import Gauge
from store.connection import Connection
from store.rollups import state as rollups
from store.rollups.state import RollupState
from store.statements import sql

logger = logging.getLogger("perennial.lag")

BEHIND_SECONDS = 30.0
"""A consumer that is more than this behind makes the process degraded, and is logged."""
HELD_SECONDS = 2.0
"""A write transaction that is open for longer is named. Those of Perennial take far less."""
MOST_COUNTED = 10_000
"""The most events that are counted for a shard, so that a look stays cheap when it is far behind."""
WATCH_SECONDS = 10.0
_UNUSUAL = re.compile(r"[^A-Za-z0-9_./:() -]")
_LONGEST_NAME = 64

# SQL text: a LATERAL. For each consumer and shard, a range of the index of the log's order.
_LAGS = sql(
    """SELECT consumers.consumer, shards.shard, waiting.events,
              CAST(greatest(extract(epoch FROM now() - waiting.oldest), 0) AS float8) AS seconds
         FROM (SELECT consumer FROM log_cursors UNION SELECT CAST(:projector AS text)) AS consumers
        CROSS JOIN generate_series(0, CAST(:last_shard AS integer)) AS shards (shard)
         LEFT JOIN log_cursors c ON c.consumer = consumers.consumer AND c.shard = shards.shard
        CROSS JOIN LATERAL (
              SELECT count(*) AS events, min(unread.received_at) AS oldest
                FROM (SELECT e.received_at FROM events e
                       WHERE e.shard = shards.shard
                         AND (e.generation, e.xid, e.sequence)
                             > (coalesce(c.generation, 0), coalesce(c.xid, '0'), coalesce(c.sequence, 0))
                       ORDER BY e.generation, e.xid, e.sequence LIMIT CAST(:most AS integer)) AS unread) AS waiting
        ORDER BY consumers.consumer, shards.shard"""
)
# SQL text: a function of the catalogue.
_HOLDER = sql("SELECT application, state, since FROM log_horizon_holder()")


@dataclass(frozen=True)
class Lag:
    """The events that a consumer hasn't read in one shard."""

    consumer: str
    shard: int
    events: int
    """At most :data:`MOST_COUNTED`."""
    seconds: float
    """The age of the oldest; 0 without any."""


@dataclass(frozen=True)
class Holder:
    """The session with the oldest open write transaction of the cluster."""

    application: str
    """Its ``application_name``, with unusual characters as `?`; "" without one."""
    state: str | None
    """As in `pg_stat_activity`, such as `idle in transaction`. None if the tables' owner may not read it."""
    since: datetime | None
    """The start of its transaction; None as above."""

    def __str__(self) -> str:
        state = f", {self.state}" if self.state else ""
        since = f" since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since else ""
        return f"session '{self.application}'{state}{since}"


@dataclass(frozen=True)
class LogState:
    lags: tuple[Lag, ...]
    holder: Holder | None
    """Only while events wait and its transaction has been open for :data:`HELD_SECONDS`."""
    rollups: RollupState | None = None

    @property
    def behind(self) -> Lag | None:
        """The shard that is most behind, if one is by more than :data:`BEHIND_SECONDS`."""
        worst = max(self.lags, key=lambda each: each.seconds, default=None)
        return worst if worst is not None and worst.seconds > BEHIND_SECONDS else None

    @property
    def rollups_behind(self) -> float:
        """The age in seconds of the oldest event that waits for the compactor."""
        if self.rollups is None or self.rollups.oldest is None:
            return 0
        return max((datetime.now(UTC) - self.rollups.oldest).total_seconds(), 0)


async def log_state(connection: Connection) -> LogState:
    rows = await _LAGS.fetch(connection, projector=PROJECTOR, last_shard=SHARDS - 1, most=MOST_COUNTED)
    lags = tuple(Lag(*row) for row in rows)
    holder = await _holder(connection) if any(each.events for each in lags) else None
    return LogState(lags, holder, await rollups.state(connection))


async def _holder(connection: Connection) -> Holder | None:
    row = await _HOLDER.fetchrow(connection)
    if row is None:
        return None
    since = row["since"]
    if since is not None and (datetime.now(UTC) - since).total_seconds() < HELD_SECONDS:
        return None
    name = _UNUSUAL.sub("?", row["application"] or "")[:_LONGEST_NAME]
    return Holder(name, row["state"], since)


def gauges(state: LogState) -> list[Gauge]:
    """The state as metrics."""

    def of(lag: Lag) -> dict[str, str]:
        return {"consumer": lag.consumer, "shard": str(lag.shard)}

    held = []
    if state.holder and state.holder.since:
        labels = {"application": state.holder.application, "state": state.holder.state or ""}
        held = [(labels, (datetime.now(UTC) - state.holder.since).total_seconds())]
    return [
        Gauge(
            "perennial_log_lag_seconds",
            "Age of the oldest event that the consumer has not read.",
            [(of(each), each.seconds) for each in state.lags],
        ),
        Gauge(
            "perennial_log_lag_events",
            f"Events that the consumer has not read, counted up to {MOST_COUNTED}.",
            [(of(each), each.events) for each in state.lags],
        ),
        Gauge(
            "perennial_log_horizon_held_seconds",
            "Age of the write transaction that holds the log's horizon back while events wait.",
            held,
        ),
        Gauge(
            "perennial_rollup_lag_seconds",
            "Age of the oldest event that waits for the compactor of the rollups.",
            [({}, state.rollups_behind)],
        ),
        Gauge(
            "perennial_rollup_waiting_events",
            "Events that wait for the compactor of the rollups.",
            [({}, state.rollups.events if state.rollups else 0)],
        ),
    ]


def log_behind(state: LogState) -> Unmet | None:
    """Whether a consumer is far behind, and what holds it back."""
    behind = state.behind
    if behind is None:
        return None
    more = " or more" if behind.events == MOST_COUNTED else ""
    held = f" The {state.holder} holds the log's horizon back." if state.holder else ""
    return Unmet(
        "log_behind",
        f"'{behind.consumer}' is {behind.seconds:.0f} s and {behind.events}{more} events behind in shard "
        f"{behind.shard}.{held}",
    )


def rollups_behind(state: LogState) -> Unmet | None:
    """Whether the compactor is far behind."""
    seconds = state.rollups_behind
    if state.rollups is None or seconds <= BEHIND_SECONDS:
        return None
    waiting = f"{state.rollups.deltas} deltas wait for the job 'system/compactor'"
    return Unmet("rollups_behind", f"The rollups are {seconds:.0f} s behind: {waiting}.")


@asynccontextmanager
async def watched(database: Database) -> AsyncIterator[None]:
    """Meanwhile, log each consumer and shard once when it falls behind, and once when it has caught up."""
    task = asyncio.create_task(_watch(database))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _watch(database: Database) -> None:
    told: set[tuple[str, int]] = set()
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        try:
            async with database.connection() as connection:
                state = await log_state(connection)
        except UNREACHABLE:
            continue
        except Exception:
            logger.exception("the lag of the log's consumers can't be read")
            continue
        told = log_changes(state, told)


def log_changes(state: LogState, told: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """Log what has changed since the consumers and shards in ``told`` fell behind; returns those behind now."""
    behind = {(each.consumer, each.shard): each for each in state.lags if each.seconds > BEHIND_SECONDS}
    for place in sorted(behind.keys() - told):
        lag, holder = behind[place], state.holder
        logger.warning(
            "a consumer of the log is behind",
            extra={
                "consumer": lag.consumer,
                "shard": lag.shard,
                "seconds": round(lag.seconds),
                "events": lag.events,
                "held_by": holder.application if holder else None,
                "held_state": holder.state if holder else None,
                "held_since": holder.since.isoformat() if holder and holder.since else None,
            },
        )
    for consumer, shard in sorted(told - behind.keys()):
        logger.info("a consumer of the log has caught up", extra={"consumer": consumer, "shard": shard})
    return set(behind)
