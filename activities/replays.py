"""Replays dead letters: delivers the outbox's entries of the kind `replay`."""

from __future__ import annotations

from collections.abc import Mapping

from temporalio.client import Client

from delivery.resets import ResetImpossibleError, reset_instance
from delivery.temporal import restart_instance
from models.errors import ParameterMissingError, WorkflowNotFoundError
from models.temporal.ending import HISTORY_LOST
from models.temporal.starting import Startable
from privacy.encryption import Cipher
from runtime.database import Database
from store.instances import replays
from store.instances.dead_letters import StoredDeadLetter


class Replays:
    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        client: Client,
        task_queue: str,
        startables: Mapping[str, Startable],
    ) -> None:
        self._database = database
        self._cipher = cipher
        self._client = client
        self._task_queue = task_queue
        self._startables = startables

    async def deliver(self, dead_letter_id: str) -> None:
        """Reset the instance to its failed step. If Temporal has no history of it, start it anew (ADR 0045).

        After a crash that follows the reset, the next delivery resets nothing, since the new run is open. It
        writes the signals again, which the workflow ignores. Once the instance has passed the failed step, its
        dead letter is no longer ``replaying``, and the delivery has no effect.
        """
        async with self._database.connection() as connection:
            dead_letter = await replays.requested(connection, self._cipher, dead_letter_id)
        if dead_letter is None:
            return
        try:
            if dead_letter.error_type == HISTORY_LOST:
                raise ResetImpossibleError
            await reset_instance(
                self._client,
                dead_letter.workflow_id,
                dead_letter.instance_id,
                failed_run=dead_letter.run_id,
                failed_step=dead_letter.failed_step,
                request_id=f"{dead_letter.dead_letter_id}-{dead_letter.attempts}",
            )
        except ResetImpossibleError:
            if not await self._restart(dead_letter):
                return
        async with self._database.transaction() as connection:
            await replays.signal_missed_events(connection, self._cipher, dead_letter)

    async def _restart(self, dead_letter: StoredDeadLetter) -> bool:
        """Start an instance anew; False if it has ended, or its workflow is gone or needs other parameters.

        If the worker dies before the call to Temporal, the next delivery prepares the same start. After the call
        it finds the new run.
        """
        workflow = self._startables.get(dead_letter.workflow_id)
        async with self._database.transaction() as connection:
            try:
                if workflow is None:
                    raise WorkflowNotFoundError
                restart = await replays.prepare_restart(
                    connection, self._cipher, workflow, dead_letter.instance_id
                )
            except (WorkflowNotFoundError, ParameterMissingError):
                await replays.reject(connection, self._cipher, dead_letter)
                return False
        if restart is None:
            return False
        await restart_instance(
            self._client,
            self._task_queue,
            restart.new,
            workflow.description,
            lost_run=restart.lost_run,
            replaced_runs=restart.replaced_runs,
        )
        return True
