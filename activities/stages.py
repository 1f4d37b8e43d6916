"""Sweeps lifecycle stages: moves the people who have had no session for a period.

Each batch is a transaction (:mod:`store.users.stage_sweeps`). If the worker dies, the next attempt, or the next
run of the schedule, goes on with the people who are still due.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from temporalio import activity

from activities.loops import heartbeats
from models.rules.stages import Periods
from models.temporal.system import StagesSwept
from privacy.encryption import Cipher
from runtime.database import Database
from store.events import log
from store.users import stage_sweeps
from store.users.stage_sweeps import Swept

logger = logging.getLogger("perennial.stages")

BATCH = 2000
REST_FACTOR = 0.5
"""The pause after a batch, as a multiple of its duration: ingest and the projector get their share."""


class StageSweeps:
    def __init__(self, database: Database, cipher: Cipher, periods: Periods, batch: int = BATCH) -> None:
        self._database = database
        self._cipher = cipher
        self._periods = periods
        self._batch = batch

    @activity.defn(name="stages.sweep")
    async def sweep(self) -> StagesSwept:
        """Sweep until nobody is due, apart from people whose rows others hold: the next run looks at them.

        The heartbeats have the numbers so far.
        """
        due = moved = 0
        clock = asyncio.get_running_loop().time
        async with heartbeats(lambda: StagesSwept(due=due, moved=moved)):
            while True:
                began = clock()
                swept = await self._sweep_batch()
                if not swept.due:
                    break
                due, moved = due + swept.due, moved + swept.moved
                await asyncio.sleep((clock() - began) * REST_FACTOR)
        if due:
            logger.info("lifecycle stages were swept", extra={"due": due, "moved": moved})
        return StagesSwept(due=due, moved=moved)

    async def _sweep_batch(self) -> Swept:
        async with self._database.connection() as connection:
            async with connection.transaction():
                now = datetime.now(UTC)
                swept = await stage_sweeps.sweep(connection, self._cipher, now, self._periods, self._batch)
            if swept.moved:
                # Outside the transaction: with a NOTIFY, Postgres would commit transactions one after the other.
                await log.notify(connection)
        return swept
