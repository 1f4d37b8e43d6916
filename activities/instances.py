"""Recording where instances stand."""

from __future__ import annotations

from collections.abc import Mapping

from temporalio import activity
from temporalio.exceptions import ApplicationError

from models.temporal.execution import InstanceQuestion, Progress, Recorded, StoredEnd, WaitRequest
from privacy.encryption import Cipher, DataKey
from runtime.database import Database
from store.connection import Connection
from store.instances import instances, terminal, waits
from store.instances.terminal import Unfinished
from store.users import data_keys

INSTANCE_UNKNOWN = "InstanceUnknown"
"""The type of :func:`instance_unknown`."""


def instance_unknown() -> ApplicationError:
    """What ends a run without an instance to carry on: it has ended, was taken back, or is another run's."""
    return ApplicationError("the instance has ended, or was taken back", type=INSTANCE_UNKNOWN, non_retryable=True)


class Instances:
    """Writes progress and ends into the stored context."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher

    @activity.defn(name="instances.record")
    async def record(self, progress: Progress) -> Recorded:
        """Write one :class:`Progress`. Idempotent: writing it twice gives the same rows.

        A wait that begins is registered here, and only after that has committed the log is looked at for
        events that came before (decision 8: no lost wake-ups). A person who has been erased has no key any
        more, and nothing of the instance is written then.

        A run whose instance was taken back, or is carried on by another run, is refused with
        :func:`instance_unknown`, so that it ends instead of waiting for weeks unseen; its end leaves nothing.
        """
        run_id = activity.info().workflow_run_id or ""
        async with self._database.transaction() as connection:
            key = (await data_keys.find(connection, self._cipher, [progress.user_id])).get(progress.user_id)
            if key is None:
                return Recorded()
            asked = await waits.resolved(connection, key, progress.instance_id, progress.registers)
            if await instances.write_progress(connection, key, progress, run_id):
                await _settle(connection, key, progress, asked, run_id)
            elif not (
                progress.status.finished or await instances.is_carried_by(connection, progress.instance_id, run_id)
            ):
                raise instance_unknown()
        if not asked or progress.status.finished:
            return Recorded()
        async with self._database.transaction() as connection:
            return Recorded(
                events=await waits.already_recorded(connection, key, progress.instance_id, progress.user_id, asked)
            )

    @activity.defn(name="instances.end")
    async def end(self, asked: InstanceQuestion) -> StoredEnd:
        """How an instance has ended already: a workflow task that is done again may come to another end, and the
        stored one stays."""
        async with self._database.connection() as connection:
            return StoredEnd(outcome=await instances.end_of(connection, asked.instance_id))


async def _settle(
    connection: Connection, key: DataKey, progress: Progress, asked: Mapping[str, WaitRequest], run_id: str
) -> None:
    """What follows from a writing that was taken: all that follows from an end; and waits that have ended are
    forgotten, those that begin registered."""
    if progress.status.finished:
        ended = Unfinished(
            progress.instance_id, progress.workflow_id, progress.user_id, progress.current_step, run_id
        )
        await terminal.on_terminal(connection, key, ended, progress.status, run_id, progress.error)
    if progress.waits:
        await waits.forget(connection, progress.instance_id, progress.waits)
    for step, request in asked.items():
        await waits.register(connection, key, progress.workflow_id, progress.instance_id, step, request)
