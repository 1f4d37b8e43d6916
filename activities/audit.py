"""Checkpoints the audit log, hour by hour.

An hour's checkpoint must cover every row of the hour. But a transaction can insert its row before the hour's end,
and commit long after it. Four steps, in this order, ensure that no row is added later:

1. An insert takes the transaction's id before it reads the clock (the order of the columns). So Postgres assigned
   the id of each row of the hour before the hour's end.
2. The worker waits until Postgres' clock has passed the hour's end and a grace period. Then it takes a transaction
   id of its own, the *barrier*. Ids are assigned in order, so every row of the hour has an id below the barrier.
3. The worker waits until no transaction below the barrier is open (``pg_snapshot_xmin``).
4. The worker reads the hour in the same snapshot (REPEATABLE READ). All of the hour's rows are committed and
   visible. A transaction that begins later has a higher id, and reads a later time.

The grace period covers a clock that is set back by a shorter time. An open transaction delays the checkpoint, but
no insert; Temporal shows the failing attempts.

If the worker dies before the commit of step 4, nothing has happened, and the next attempt checkpoints the hour. If
it dies after the commit, the next attempt finds the checkpoint and continues with the next hour. If two workers
run at once, one fails at the primary key (the hour). Its next attempt finds the checkpoint.

The workflow passes the newest head to its next run through Temporal. If Postgres no longer has that checkpoint,
the end of the chain was deleted, or a backup was restored. The worker then logs an error, appends an audit row,
and continues.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from models.audit import SYSTEM, AuditEntry
from models.temporal.system import AuditCheckpointResult, AuditHead
from privacy.audit_chain import Checkpoint, CheckpointKey
from runtime.database import Database
from store.audit import checkpoints, entries
from store.audit.checkpoints import DueHour

logger = logging.getLogger("perennial.audit")

ACTOR = "system:audit"
CHAIN_LOST = "audit.chain_lost"
GRACE = timedelta(minutes=2)
_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 20.0


class AuditCheckpoints:
    def __init__(self, database: Database, key: CheckpointKey) -> None:
        self._database = database
        self._key = key

    @activity.defn(name="audit.checkpoint")
    async def checkpoint(self, previous: AuditHead | None) -> AuditCheckpointResult:
        """Checkpoint all hours that are over, the oldest first; ``previous`` is the last run's newest head."""
        if previous is not None:
            await self._check_presence(previous)
        hours = 0
        while (due := await self._due()) is not None:
            made = await self._checkpoint(due)
            hours += 1
            # A collector of logs keeps the heads where the database's administrators can't change them.
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
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise ApplicationError(
                f"A transaction from before the end of {due.hour.isoformat()} is still open.", type="HourStillOpen"
            ) from None
        return made

    async def _checkpoint_if_closed(self, due: DueHour) -> Checkpoint | None:
        async with (
            self._database.connection() as connection,
            # The check and the read need one snapshot (step 4).
            connection.transaction(isolation="repeatable_read"),
        ):
            if not await checkpoints.is_closed(connection, due):
                return None
            return await checkpoints.checkpoint(connection, self._key, due)

    async def _check_presence(self, head: AuditHead) -> None:
        """Report a checkpoint that Temporal knows and Postgres has lost."""
        lost = {"hour": head.hour.isoformat(), "head": head.head}
        async with self._database.transaction() as connection:
            if await checkpoints.has(connection, head.hour, bytes.fromhex(head.head)):
                return
            await entries.append(connection, [AuditEntry(ACTOR, SYSTEM, CHAIN_LOST, details=lost)])
        logger.error("the audit log has lost a checkpoint", extra=lost)


def _head(checkpoint: Checkpoint) -> AuditHead:
    return AuditHead(hour=checkpoint.hour, head=checkpoint.head.hex())
