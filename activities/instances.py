"""Recording where instances stand."""

from __future__ import annotations

from temporalio import activity

from models.messages.execution import Progress
from privacy.sealing import Sealer
from runtime.database import Database
from store import data_keys, instances


class Instances:
    """Writes progress and ends into the stored context."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    @activity.defn(name="instances.record")
    async def record(self, progress: Progress) -> None:
        """Write one :class:`Progress`. Idempotent: writing it twice gives the same rows.

        A person who has been erased has no key any more, and nothing of the instance is written then.
        """
        run_id = activity.info().workflow_run_id or ""
        async with self._database.transaction() as connection:
            key = (await data_keys.find(connection, self._sealer, [progress.user_id])).get(progress.user_id)
            if key is not None:
                await instances.write_progress(connection, key, progress, run_id)
