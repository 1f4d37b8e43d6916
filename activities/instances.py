"""Records the progress and the ends that lifecycle workflows report."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from models.temporal.execution import BackOff, InstanceQuestion, Progress, Recorded, StepQuestion, StoredEnd
from models.temporal.starting import is_exit
from privacy.encryption import Cipher
from runtime.database import Database
from store.instances import attempts, instances, states, terminal, transitions, triggers, waits
from store.users import data_keys

INSTANCE_UNKNOWN = "InstanceUnknown"
"""The type of :func:`instance_unknown`."""


def instance_unknown() -> ApplicationError:
    """Ends a run that must stop: the instance has ended or was deleted, or a replay has replaced the run."""
    return ApplicationError("the instance has ended, or was taken back", type=INSTANCE_UNKNOWN, non_retryable=True)


EXIT_DUE = "ExitDue"
"""The type of :func:`exit_due`."""


def exit_due() -> ApplicationError:
    """Ends a step before an attempt: the log holds an event that ends the instance."""
    return ApplicationError("an event ends the instance before this step", type=EXIT_DUE, non_retryable=True)


SURE_PAUSE = timedelta(seconds=10)
"""A retry that is due later than this can be cancelled without cutting short an attempt."""


class Instances:
    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher

    @activity.defn(name="instances.record")
    async def record(self, progress: Progress) -> Recorded:
        """Write one :class:`Progress`; idempotent. Writes nothing for an erased person.

        A wait that begins is registered in the first transaction. Only after that commit are events read that came
        earlier (decision 8: no event is missed).

        Raises :func:`instance_unknown` for a run that must stop, so that it doesn't wait unseen for weeks.
        Its end is dropped without an error.
        """
        run_id = activity.info().workflow_run_id or ""
        async with self._database.transaction() as connection:
            key = (await data_keys.find(connection, self._cipher, [progress.user_id])).get(progress.user_id)
            if key is None:
                return Recorded()
            if progress.status.finished:
                await terminal.finish(connection, key, progress, run_id)
                return Recorded()
            if not await transitions.record_progress(connection, key, progress, run_id):
                if not await states.is_current(connection, progress.instance_id, run_id):
                    raise instance_unknown()
                return Recorded()  # the instance has ended, and so will this run
            asked = await waits.register(connection, key, progress.instance_id, progress.registers)
        if not asked:
            return Recorded()
        # A second transaction, after the first has registered the waits, so that no event is missed (decision 8).
        # An event that commits later finds the wait; this reads the earlier ones.
        async with self._database.transaction() as connection:
            events = await waits.already_recorded(connection, key, progress.instance_id, progress.user_id, asked)
            if not progress.once and any(is_exit(event.step) for event in events):
                exited = (progress.workflow_id, progress.user_id, progress.instance_id)
                await triggers.give_back(connection, [exited])
            return Recorded(events=events)

    @activity.defn(name="instances.backs_off")
    async def backs_off(self, asked: StepQuestion) -> BackOff:
        """Whether an exit may cancel a failing step at once, since no attempt is under way or about to begin."""
        async with self._database.connection() as connection:
            lasts = await attempts.backs_off(connection, asked.instance_id, asked.step, SURE_PAUSE)
        return BackOff(lasts=lasts)

    @activity.defn(name="instances.end")
    async def end(self, asked: InstanceQuestion) -> StoredEnd:
        """The stored end. A repeated workflow task may compute another end; the stored one stays."""
        async with self._database.connection() as connection:
            return StoredEnd(outcome=await instances.outcome(connection, asked.instance_id))
