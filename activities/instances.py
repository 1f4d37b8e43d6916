"""Recording where instances stand."""

from __future__ import annotations

from temporalio import activity

from models.messages.execution import Progress, Recorded
from privacy.sealing import Sealer
from runtime.database import Database
from store import data_keys, endings, instances, waits
from store.connection import Connection
from store.endings import Unfinished


class Instances:
    """Writes progress and ends into the stored context."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    @activity.defn(name="instances.record")
    async def record(self, progress: Progress) -> Recorded:
        """Write one :class:`Progress`. Idempotent: writing it twice gives the same rows.

        A wait that begins is registered here, and only after that has committed the log is looked at for
        events that came before (decision 8: no lost wake-ups). A person who has been erased has no key any
        more, and nothing of the instance is written then.
        """
        run_id = activity.info().workflow_run_id or ""
        async with self._database.transaction() as connection:
            key = (await data_keys.find(connection, self._sealer, [progress.user_id])).get(progress.user_id)
            if key is None:
                return Recorded()
            taken = await instances.write_progress(connection, key, progress, run_id)
            if taken and progress.status.finished:
                await endings.follow_up(
                    connection, key, _instance(progress, run_id), progress.status, run_id, progress.error
                )
            await _settle_waits(connection, progress)
        if progress.waiting_for is None or progress.current_step is None:
            return Recorded()
        async with self._database.transaction() as connection:
            return Recorded(
                events=await waits.already_recorded(
                    connection,
                    key,
                    progress.instance_id,
                    progress.user_id,
                    progress.current_step,
                    progress.waiting_for,
                )
            )


def _instance(progress: Progress, run_id: str) -> Unfinished:
    return Unfinished(progress.instance_id, progress.workflow_id, progress.user_id, progress.current_step, run_id)


async def _settle_waits(connection: Connection, progress: Progress) -> None:
    """Forget waits that have ended, and register the one that begins."""
    if progress.waits:
        await waits.forget(connection, progress.instance_id, progress.waits)
    if progress.waiting_for is not None and progress.current_step is not None:
        await waits.register(
            connection,
            progress.workflow_id,
            progress.instance_id,
            progress.user_id,
            progress.current_step,
            progress.waiting_for,
        )
