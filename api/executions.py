"""Starting, looking at and steering instances: where Postgres' context and Temporal's truth meet.

Start, by the line at which the process dies or Temporal doesn't answer:

1. before the instance row commits: nothing happened.
2. after it, before Temporal is told: the row stays without a run. It is shown as failed (``NotStarted``)
   once Temporal has said for certain that there is none; a repeated request with the same Idempotency-Key
   has the same instance id and starts it.
3. Temporal doesn't answer: the caller is told to repeat (503). Under an Idempotency-Key the row stays, as in 2.
   Without one it is taken back; should Temporal have taken the start all the same, the workflow's first
   recording finds no row and ends it before any effect (:func:`store.instances.attempts.begin_attempt`).
4. after Temporal is told, before the answer: the instance runs; repeating with the same key returns it.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from models.errors import (
    AlreadyFinishedError,
    HistoryGoneError,
    InstanceNotFoundError,
    TemporalUnavailableError,
    WorkerUnavailableError,
)
from models.temporal.ending import ENDED_AS
from models.temporal.identity import STATUS, STEP, temporal_workflow_id
from models.temporal.starting import start_message, start_options
from models.vocabulary import InstanceStatus
from privacy.encryption import Cipher
from runtime.database import Database
from runtime.temporal import RPC_TIMEOUT
from store import outbox
from store.instances import instances, terminal
from store.instances.instances import NewInstance, StoredInstance
from workflows.catalog import find

logger = logging.getLogger("perennial.executions")

LOOK_TIMEOUT = timedelta(seconds=2)
"""How long a read waits for Temporal before it answers from the stored context."""
NOT_STARTED_AFTER = timedelta(seconds=30)
"""How long an instance that Temporal doesn't know is still taken to be on its way there."""
LOOK_AGAIN_SECONDS = 0.05
"""How long to leave Temporal in peace that could not take a command just now."""

_INSTANCE_IDS = uuid.UUID("0f2f5c7a-3a39-4c58-9a55-2b6d3f8a4e10")


@dataclass(frozen=True)
class InstanceState:
    """An instance as it stands: the stored context, corrected by what Temporal says now."""

    stored: StoredInstance
    stale: bool = False


def new_instance_id(token: str) -> str:
    """An instance id from a request's token, which is the same for a repeated request with its Idempotency-Key:
    that can only ever start the same instance."""
    return uuid.uuid5(_INSTANCE_IDS, token).hex


class Executions:
    """The instances of lifecycle workflows, as the edge sees them."""

    def __init__(self, database: Database, cipher: Cipher, client: Client | None, task_queue: str) -> None:
        self._database = database
        self._cipher = cipher
        self._given_client = client
        self._task_queue = task_queue

    async def start(self, new: NewInstance, description: str, *, repeatable: bool) -> str | None:
        """Tell Temporal of an instance that is stored; returns the run id, None if it ran already.

        Raises :class:`TemporalUnavailableError`, and takes the instance back then; unless it belongs to an
        Idempotency-Key (``repeatable``), whose other requests may have started it, or will.
        """
        exits = find(new.workflow_id).exits
        message = start_message(new.instance_id, new.user_id, new.max_attempts, new.parameters, exits)
        try:
            handle = await self._client.start_workflow(
                new.workflow_id,
                message,
                task_queue=self._task_queue,
                rpc_timeout=RPC_TIMEOUT,
                **start_options(new.workflow_id, message, description),
            )
        except WorkflowAlreadyStartedError:
            return None
        except (RPCError, RuntimeError) as error:
            logger.warning("Temporal did not take a start", extra={"error_type": type(error).__name__})
            if not repeatable:
                await self._take_back(new.instance_id)
            raise TemporalUnavailableError from error
        return handle.first_execution_run_id

    async def started(self, new: NewInstance, start_time: datetime, run_id: str | None) -> InstanceState:
        """A new instance as the answer to its execute tells it, without asking Temporal again.

        One that ran already (a repeated request whose first answer was lost) is read back.
        """
        if run_id is None:
            return await self.look(new.workflow_id, new.instance_id)
        return InstanceState(instances.begun(new, start_time, run_id))

    async def look(self, workflow_id: str, instance_id: str) -> InstanceState:
        """An instance as it stands now. Raises :class:`InstanceNotFoundError`."""
        stored = await self._stored(workflow_id, instance_id)
        if stored.end_time is not None:
            return InstanceState(stored)
        try:
            told = await self._handle(stored).describe(rpc_timeout=LOOK_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return InstanceState(_unknown_to_temporal(stored))
            return InstanceState(stored, stale=True)
        except RuntimeError:
            return InstanceState(stored, stale=True)
        if told.status in ENDED_AS:
            # The end is recorded just before Temporal closes the run: read again what was read too early.
            stored = await self._stored(workflow_id, instance_id)
        return InstanceState(_corrected(stored, told))

    async def finished_within(
        self, workflow_id: str, instance_id: str, seconds: float, stopping: asyncio.Event
    ) -> InstanceState | None:
        """The instance once it has finished; None if it hasn't within that time, or before we stop."""
        handle = self._client.get_workflow_handle(temporal_workflow_id(workflow_id, instance_id))
        ended = asyncio.create_task(handle.result())
        told = asyncio.create_task(stopping.wait())
        await asyncio.wait((ended, told), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in (ended, told):
            task.cancel()
        # However it has ended, the context tells how; what was given up is of no interest.
        results = await asyncio.gather(ended, told, return_exceptions=True)
        if isinstance(results[0], asyncio.CancelledError | RPCError):
            return None
        sight = await self.look(workflow_id, instance_id)
        return sight if sight.stored.status.finished else None

    async def cancel(self, workflow_id: str, instance_id: str) -> InstanceState:
        """Ask an instance to stop; its clean-up runs, and it ends as cancelled."""
        stored = await self._unfinished(workflow_id, instance_id)
        try:
            if await self._arrived(stored):
                await self._handle(stored).cancel(rpc_timeout=RPC_TIMEOUT)
            else:
                async with self._database.transaction() as connection:
                    await outbox.write_cancel(connection, workflow_id, instance_id, stored.user_id)
        except (RPCError, RuntimeError) as error:
            raise _refusal(error) from error
        return await self.look(workflow_id, instance_id)

    async def command(self, workflow_id: str, instance_id: str, update: str) -> InstanceState:
        """Send an update (``pause``, ``resume``) and wait until the workflow has carried it out."""
        try:
            async with asyncio.timeout(RPC_TIMEOUT.total_seconds()):
                await self._updated(workflow_id, instance_id, update)
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError) as error:
            raise WorkerUnavailableError from error
        except WorkflowUpdateFailedError as error:
            raise AlreadyFinishedError from error
        except (RPCError, RuntimeError) as error:
            raise _refusal(error) from error
        return await self.look(workflow_id, instance_id)

    async def _updated(self, workflow_id: str, instance_id: str, update: str) -> None:
        """Have an update carried out by the run that counts; one that is on the way is waited for.

        Temporal takes no update with a workflow task that it has to do again, as it has where a cancellation comes
        while the instance ends: the next task takes it, or tells that the instance has ended.
        """
        update_id = uuid.uuid4().hex
        while True:
            stored = await self._unfinished(workflow_id, instance_id)
            try:
                if await self._arrived(stored):
                    await self._handle(stored).execute_update(update, id=update_id)
                    return
            except RPCError as error:
                if error.status is not RPCStatusCode.FAILED_PRECONDITION:
                    raise
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def _arrived(self, stored: StoredInstance) -> bool:
        """Whether Temporal has the run that counts; False while the instance's start or its replay is on the way.
        Temporal takes the cancellation of a closed run without a word, so it is asked before.

        Raises :class:`AlreadyFinishedError` where that run has closed.
        """
        try:
            told = await self._handle(stored).describe(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND and _may_be_on_its_way(stored):
                return False
            raise
        if told.status not in ENDED_AS:
            return True
        if told.run_id in stored.replaced_runs:
            return False
        raise AlreadyFinishedError

    async def require_history(self, workflow_id: str, instance_id: str, run_id: str) -> None:
        """Raise :class:`HistoryGoneError` where Temporal has no history of that run any more, and
        :class:`TemporalUnavailableError` where it can't be asked."""
        handle = self._client.get_workflow_handle(temporal_workflow_id(workflow_id, instance_id), run_id=run_id)
        try:
            await handle.describe(rpc_timeout=RPC_TIMEOUT)
        except (RPCError, RuntimeError) as error:
            if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
                raise HistoryGoneError from error
            raise TemporalUnavailableError from error

    async def _stored(self, workflow_id: str, instance_id: str) -> StoredInstance:
        async with self._database.connection() as connection:
            found = await instances.find(connection, self._cipher, workflow_id, instance_id)
        if found is None:
            raise InstanceNotFoundError
        return found

    async def _unfinished(self, workflow_id: str, instance_id: str) -> StoredInstance:
        stored = await self._stored(workflow_id, instance_id)
        if stored.end_time is not None:
            raise AlreadyFinishedError
        return stored

    async def _take_back(self, instance_id: str) -> None:
        async with self._database.transaction() as connection:
            await instances.delete_unstarted(connection, instance_id)

    @property
    def _client(self) -> Client:
        if self._given_client is None:
            raise TemporalUnavailableError
        return self._given_client

    def _handle(self, stored: StoredInstance) -> WorkflowHandle[Any, Any]:
        return self._client.get_workflow_handle(temporal_workflow_id(stored.workflow_id, stored.instance_id))


def _corrected(stored: StoredInstance, told: WorkflowExecutionDescription) -> StoredInstance:
    """The stored context with the status, step and run that Temporal tells of."""
    if stored.end_time is not None:
        return stored
    if told.run_id in stored.replaced_runs:  # a replay is on its way to Temporal
        return stored
    closed = ENDED_AS.get(told.status) if told.status is not None else None
    if closed is not None:
        return replace(stored, status=closed, end_time=told.close_time, run_id=told.run_id)
    shown = told.typed_search_attributes.get(STATUS)
    paused = shown == InstanceStatus.PAUSED.value
    return replace(
        stored,
        status=InstanceStatus.PAUSED if paused else InstanceStatus.RUNNING,
        current_step=told.typed_search_attributes.get(STEP) or stored.current_step,
        run_id=told.run_id,
    )


def _may_be_on_its_way(stored: StoredInstance) -> bool:
    return stored.run_id is None and datetime.now(UTC) - stored.start_time < NOT_STARTED_AFTER


def _unknown_to_temporal(stored: StoredInstance) -> StoredInstance:
    """What to say of an instance without an end that Temporal has no history of."""
    if _may_be_on_its_way(stored):
        return stored
    failure = terminal.never_started() if stored.run_id is None else terminal.history_lost(stored.current_step)
    return replace(stored, status=InstanceStatus.FAILED, error=failure.model_dump())


def _refusal(error: Exception) -> AlreadyFinishedError | TemporalUnavailableError:
    """Temporal answers NOT_FOUND to a command for a run that has closed; anything else is its absence. A
    client that has never reached it raises RuntimeError."""
    closed = isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND
    return AlreadyFinishedError() if closed else TemporalUnavailableError()
