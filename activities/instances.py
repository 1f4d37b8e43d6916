"""Recording where instances stand."""

from __future__ import annotations

from temporalio import activity

from models.messages.execution import Progress, Recorded
from models.vocabulary import InstanceStatus
from privacy.sealing import DataKey, Sealer
from runtime.database import Database
from store import data_keys, dead_letters, instances, waits
from store.connection import Connection


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
            if await instances.write_progress(connection, key, progress, run_id):
                await _settle_end(connection, key, progress, run_id)
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


async def _settle_end(connection: Connection, key: DataKey, progress: Progress, run_id: str) -> None:
    """What follows from the end of an instance, in the transaction that writes it."""
    if not progress.status.finished:
        return
    failed_step = progress.error.failed_step if progress.error else None
    await dead_letters.settle_ended(connection, progress.instance_id, progress.status, failed_step)
    if progress.error is not None:
        place = (progress.workflow_id, progress.instance_id, progress.user_id)
        await dead_letters.leave(connection, key, *place, run_id, progress.error)


async def _settle_waits(connection: Connection, progress: Progress) -> None:
    """Forget waits that have ended, and register the one that begins. Those of an instance that has failed stay,
    since a replay carries on with them."""
    if progress.status.finished and progress.status is not InstanceStatus.FAILED:
        await waits.forget(connection, progress.instance_id, None)
    elif progress.waits:
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
