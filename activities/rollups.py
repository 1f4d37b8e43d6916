"""The compactor: folds what the projector has appended into the rollups (:mod:`store.rollups.compaction`).

It looks twice a second, and rests after each transaction. If the worker dies, Temporal starts the loop on another
worker, which finds the same waiting deltas.
"""

from __future__ import annotations

import asyncio
import logging

from temporalio import activity

from activities.loops import run_loop
from runtime.database import Database
from store.rollups import compaction

logger = logging.getLogger("perennial.rollups")

PAUSE_SECONDS = 0.5
"""The shortest time between two transactions, so that a steady stream makes fewer of them."""
REST_FACTOR = 4.0
MOST_REST_SECONDS = 10.0
"""The pause is ``REST_FACTOR`` times the transaction's duration, up to this; none while many deltas wait."""
FAILED_SECONDS = 5.0


class Compactor:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._logged_error: str | None = None

    @activity.defn(name="rollups.compact")
    async def run(self) -> None:
        """Compact for a turn."""
        await run_loop(self.step)

    async def step(self) -> float:
        """Fold a batch of deltas; returns the seconds until the next."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with self._database.transaction() as connection:
                done = await compaction.compact(connection)
            while done.months:
                # A transaction for each few merges, so that none holds the log's horizon back for long.
                async with self._database.transaction() as connection:
                    if not await compaction.merge(connection, done.months):
                        break
        except (ValueError, LookupError) as error:
            self._log_once(error)
            return FAILED_SECONDS
        self._logged_error = None
        if done.deltas == compaction.BATCH:
            return 0
        return min(max(PAUSE_SECONDS, (clock() - began) * REST_FACTOR), MOST_REST_SECONDS)

    def _log_once(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        if text != self._logged_error:
            logger.error("rollups wait, since a delta can't be folded", exc_info=error)
        self._logged_error = text
