"""Checkpointing the audit log, hour by hour.

No row may come into an hour after its checkpoint, and none that belongs there may be missed, although a transaction
can write its row before the end of the hour and commit long after it:

1. A row takes its transaction's id first and reads the clock then (the order of its columns), so whatever has a
   time before the hour's end got its id before the hour's end.
2. The checkpoint worker takes an id of its own, the *barrier*, once Postgres' clock is past the end and a grace. Ids are
   assigned in order, so every row of the hour has an id below the barrier.
3. It waits until no transaction below the barrier is open (``pg_snapshot_xmin``), and in that very snapshot
   (REPEATABLE READ) reads the hour: all of its rows that were ever to be are committed and seen. A transaction
   that starts later has a higher id, and reads a later clock.

The grace is for a clock that is set back: by less than that, and nothing can be late. A transaction that stays
open holds the checkpointing back, never the writing; the attempts that Temporal shows then say so.

By the line at which the process dies: before the commit of (3) nothing has happened and the hour is checkpointed by the
next attempt; after it the next attempt finds the checkpoint and goes on with the hour after. Two checkpoint workers at once: the
hour is the primary key, so that one of them fails and, tried again, finds it checkpointed.

Temporal remembers the head that the run before has told. Where Postgres doesn't have that checkpoint any more, somebody
has cut the chain's end off, or restored a backup: that goes to the process's log and to the audit log itself, and
checkpointing goes on.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from temporalio import activity
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
)
from temporalio.exceptions import ApplicationError

from activities import schedules
from models.audit import SYSTEM, AuditEntry
from models.temporal.audit import AUDIT_CHECKPOINT, AUDIT_CHECKPOINT_ID, AuditCheckpointResult, AuditHead
from privacy.audit_chain import Checkpoint, CheckpointKey
from runtime.database import Database
from store.audit import checkpoints, entries
from store.audit.checkpoints import HOUR, DueHour

logger = logging.getLogger("perennial.audit")

ACTOR = "system:audit"
CHAIN_LOST = "audit.chain_lost"
GRACE = timedelta(minutes=2)
_AFTER_THE_HOUR = timedelta(minutes=3)
_LOOK_AGAIN_SECONDS = 0.1
_PATIENCE_SECONDS = 20.0


class AuditCheckpoints:
    """Checkpoints hours of the audit log."""

    def __init__(self, database: Database, key: CheckpointKey) -> None:
        self._database = database
        self._key = key

    @activity.defn(name="audit.checkpoint")
    async def checkpoint(self, told_before: AuditHead | None) -> AuditCheckpointResult:
        """Checkpoint all hours that are over, the oldest first; ``told_before`` is the head that the last run told."""
        if told_before is not None:
            await self._require(told_before)
        hours = 0
        while (due := await self._due()) is not None:
            made = await self._checkpoint(due)
            hours += 1
            # Whoever collects the logs has the heads out of the database's reach.
            logger.info("audit hour checkpointed", extra={"hour": made.hour.isoformat(), "head": made.head.hex()})
            activity.heartbeat()
        async with self._database.connection() as connection:
            newest = await checkpoints.last(connection)
        return AuditCheckpointResult(hours=hours, newest=_head(newest) if newest else None)

    async def _due(self) -> DueHour | None:
        async with self._database.transaction() as connection:
            return await checkpoints.due(connection, GRACE)

    async def _checkpoint(self, due: DueHour) -> Checkpoint:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while (made := await self._checkpoint_if_closed(due)) is None:
                    activity.heartbeat()
                    await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        except TimeoutError:
            raise ApplicationError(
                f"A transaction from before the end of {due.hour.isoformat()} is still open.", type="HourStillOpen"
            ) from None
        return made

    async def _checkpoint_if_closed(self, due: DueHour) -> Checkpoint | None:
        async with self._database.transaction() as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            if not await checkpoints.closed(connection, due):
                return None
            return await checkpoints.checkpoint(connection, self._key, due)

    async def _require(self, told: AuditHead) -> None:
        async with self._database.transaction() as connection:
            if await checkpoints.holds(connection, told.hour, bytes.fromhex(told.head)):
                return
            lost = {"hour": told.hour.isoformat(), "head": told.head}
            await entries.append(connection, [AuditEntry(ACTOR, SYSTEM, CHAIN_LOST, details=lost)])
        logger.error("the audit log's chain has lost a checkpoint that was made", extra=lost)


def _head(checkpoint: Checkpoint) -> AuditHead:
    return AuditHead(hour=checkpoint.hour, head=checkpoint.head.hex())


async def schedule_audit_checkpoint(client: Client, task_queue: str) -> None:
    """Have the audit log checkpointed now and a few minutes after every full hour, on this task queue."""
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(AUDIT_CHECKPOINT, id=AUDIT_CHECKPOINT_ID, task_queue=task_queue),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=HOUR, offset=_AFTER_THE_HOUR)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=HOUR),
    )
    await schedules.keep(client, AUDIT_CHECKPOINT_ID, schedule)
